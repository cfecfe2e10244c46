"""Stack use of the tile kernels, which share a core's 64 KB with their buffers.

    python tools/kernel_stack.py                              # with this machine's compiler
    python tools/kernel_stack.py --peano /opt/llvm-aie        # and with AMD's, for the core itself

An AIE2 core does not notice when its stack grows into the buffers beside it: results are wrong,
not refused. So every function must fit the 1 KB that the stack has, with all that it may call. The
figure of this machine's compiler is an estimate of the core's; only AMD's compiler (Peano, also
found through PEANO_INSTALL_DIR) knows it, and the size of the program, which must fit 16 KB.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

SOURCES = Path(__file__).parents[1] / "kernels" / "src"
STACK_BYTES = 1024
PROGRAM_BYTES = 16 * 1024
COMPILERS = ("g++", "clang++", "c++")
# Otherwise functions use 128 bytes below the stack that no compiler counts.
HOST = "-mno-red-zone"
AIE2 = "--target=aie2-none-unknown-elf"

# "gelu.cc:33:6:void gelu(...)" of GCC, "gelu.cc:33:gelu" of clang.
_LOCATION = re.compile(r"^[^:]+:\d+:(\d+:)?")
# "tiles::lane_sum(...)" of GCC, "_ZN5tiles8lane_sumILi..." of clang.
_HELPER = re.compile(r"tiles(?:::|\d+)([a-z_0-9]+)")
_SHF_EXECINSTR = 4


class Frame(NamedTuple):
    """Stack use of one function; ``fixed`` is false if it depends on the data."""

    function: str
    size: int
    fixed: bool

    @property
    def helper(self) -> str | None:
        """The function of namespace ``tiles`` that this is an instance of; None for a kernel."""
        match = _HELPER.search(self.function)
        return match and match.group(1)


def read_frames(path: Path) -> list[Frame]:
    """The functions of a .su file, which GCC and clang write with -fstack-usage."""
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    return [Frame(_LOCATION.sub("", name), int(size), how == "static") for name, size, how in rows]


def deepest(frames: Sequence[Frame]) -> int:
    """At least the stack of any chain of calls in one source: of a kernel and each helper once.

    No helper calls an instance of itself.
    """
    largest: dict[str | None, int] = {}
    for frame in frames:
        largest[frame.helper] = max(frame.size, largest.get(frame.helper, 0))
    return sum(largest.values())


def program_bytes(path: Path) -> int:
    """Bytes of executable sections of a little-endian ELF object."""
    elf = path.read_bytes()
    if elf[:4] != b"\x7fELF":
        raise ValueError(f"{path} is not an ELF file")
    wide = elf[4] == 2
    (table,) = struct.unpack_from("<Q" if wide else "<I", elf, 40 if wide else 32)
    entry, count = struct.unpack_from("<HH", elf, 58 if wide else 46)
    total = 0
    for offset in range(table, table + entry * count, entry):
        if wide:
            flags, _, _, size = struct.unpack_from("<4Q", elf, offset + 8)
        else:
            flags, _, _, size = struct.unpack_from("<4I", elf, offset + 8)
        total += size if flags & _SHF_EXECINSTR else 0
    return total


def problems(compiler: str, flags: str, program_limit: float = math.inf) -> list[str]:
    """Compile the sources, print what each needs in bytes, and list what does not fit."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        variables = (f"BUILD={folder}", f"CXX={compiler}", f"TARGET={flags}")
        subprocess.run(("make", "--silent", "-C", SOURCES, "stack", *variables), check=True)
        for path in sorted(Path(folder).glob("*.su")):
            frames, code = read_frames(path), program_bytes(path.with_suffix(".o"))
            stack = deepest(frames)
            largest = max(frames, key=lambda frame: frame.size)
            print(f"  {path.stem:12} stack {stack:5}  program {code:6}  largest {largest.function}")
            found += [f"{f.function}: stack is not fixed" for f in frames if not f.fixed]
            if stack > STACK_BYTES:
                found.append(f"{path.stem}: {stack} bytes of stack, {STACK_BYTES} are there")
            if code > program_limit:
                found.append(f"{path.stem}: {code} bytes of program, {program_limit} are there")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peano", default=os.environ.get("PEANO_INSTALL_DIR"), metavar="FOLDER")
    options = parser.parse_args(arguments)
    compiler = os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)
    if compiler is None:
        print("kernel_stack: no C++ compiler; install g++ or set CXX", file=sys.stderr)
        return 1
    print(f"{compiler}:")
    found = problems(compiler, HOST if platform.machine() == "x86_64" else "")
    if options.peano:
        peano = shlex.quote(str(Path(options.peano) / "bin" / "clang++"))
        print(f"{peano} {AIE2}:")
        found += problems(peano, AIE2, PROGRAM_BYTES)
    else:
        print("aie2: not checked; give --peano or set PEANO_INSTALL_DIR")
    for problem in found:
        print(f"kernel_stack: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
