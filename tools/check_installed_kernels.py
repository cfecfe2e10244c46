"""Verify the CPU kernels that an installed whisper-npu brings, in every instruction set here.

    python tools/check_installed_kernels.py

For wheels, before they are published: exit code 1 if the package has no compiled kernels, or if one
fails.
"""

from __future__ import annotations

import sys

from whisper_npu.backends.cpu.build import find_build, installed_folder, why_no_build
from whisper_npu.backends.cpu.library import open_library
from whisper_npu.backends.cpu.verify_library import verify_library


def main() -> int:
    """Print a line for each instruction set."""
    build = find_build()
    if build is None or build.folder != installed_folder():
        print(why_no_build() if build is None else f"{build.path} is not the installed library")
        return 1
    library = open_library(build)
    print(f"{build.path}: {build.compiler}; {library.cpu or 'this CPU'}")
    failures = 0
    for isa in library.isas:
        found = verify_library(library, build.sha256, [isa])
        failed = [f"{each.kernel}: {each.failure}" for each in found if not each.passed]
        print(f"{isa}: {'; '.join(failed) or f'{len(found)} kernels verified'}")
        failures += len(failed)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
