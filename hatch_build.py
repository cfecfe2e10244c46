"""The build hook: the CPU kernels are compiled where the package is built to be installed."""

from __future__ import annotations

import platform
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CpuKernels(BuildHookInterface[Any]):
    """Puts a library of all instruction sets of this processor into a wheel.

    Where nothing can be compiled the wheel is one for any platform, with a record of why. An
    editable installation has the library in the source tree.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        # How to compile is described once, in the package.
        sys.path.insert(0, self.root)
        from whisper_npu.backends.cpu.build import install_library

        if version == "editable":
            folder = Path(self.root, "kernels", "lib")
        else:
            self._temporary = tempfile.TemporaryDirectory()
            folder = Path(self._temporary.name, "lib")
            build_data["force_include"][str(folder)] = "whisper_npu/kernels/lib"
        build = install_library(folder)
        if build is not None:
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{_platform()}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self._temporary.cleanup()


def _platform() -> str:
    """The platform that the compiler makes a library for, as a wheel's name has it."""
    name = sysconfig.get_platform().replace("universal2", platform.machine())
    return name.replace("-", "_").replace(".", "_")
