"""Stack use of the tile kernels, which share a core's 64 KB with their buffers.

An AIE2 core does not notice when its stack grows into the buffers beside it: results are wrong,
not refused. So every function must fit the 1 KB that the stack has, with all that it may call
(tests/tools/test_kernel_stack.py). The figure of this machine's compiler is an estimate of the
core's; only AMD's compiler (Peano, found through PEANO_INSTALL_DIR) knows it, and the size of the
program, which must fit 16 KB.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tools.markdown import markdown_table
from tools.measuring import REPOSITORY

SOURCES = REPOSITORY / "kernels" / "src"
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


class Use(NamedTuple):
    """What a source needs, in bytes; ``variable`` are functions whose stack is not fixed."""

    source: str
    stack: int
    program: int
    variable: tuple[str, ...]


def measure(compiler: str, flags: str) -> list[Use]:
    """Compile the sources. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as folder:
        variables = (f"BUILD={folder}", f"CXX={compiler}", f"TARGET={flags}")
        subprocess.run(("make", "--silent", "-C", SOURCES, "stack", *variables), check=True)
        found = []
        for path in sorted(Path(folder).glob("*.su")):
            frames, code = read_frames(path), program_bytes(path.with_suffix(".o"))
            variable = tuple(frame.function for frame in frames if not frame.fixed)
            found.append(Use(path.stem, deepest(frames), code, variable))
    return found


def compilers() -> dict[str, tuple[str, str]]:
    """Name -> command and flags: of this machine's compiler, if there is one, and of AMD's."""
    found = {}
    host = os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)
    if host:
        found[host] = (host, HOST if platform.machine() == "x86_64" else "")
    if peano := os.environ.get("PEANO_INSTALL_DIR"):
        found["Peano"] = (shlex.quote(str(Path(peano) / "bin" / "clang++")), AIE2)
    return found


def lines() -> Iterator[str]:
    rows = [
        [name, use.source, str(use.stack), str(use.program)]
        for name, (command, flags) in compilers().items()
        for use in measure(command, flags)
    ]
    yield from markdown_table(["compiler", "source", "stack, bytes", "program, bytes"], rows)
