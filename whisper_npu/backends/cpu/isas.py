"""The instruction sets that kernels are compiled for, read from ``isas.h``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from whisper_npu.errors import KernelError

FILE_NAME = "isas.h"

_EVERYWHERE = "EVERYWHERE"
# The list of isas.h for what ``platform.machine`` says.
_LISTS = {"x86_64": "X86_64", "AMD64": "X86_64", "aarch64": "AARCH64", "arm64": "AARCH64"}

_LIST = re.compile(r"#define ISAS_(\w+)\(X\)(.*)")
_ROW = re.compile(r'\s*X\((\w+), (\w+),((?:\s*"[^"]*")+)\)')


class Isa(NamedTuple):
    """An instruction set: its name, the set whose variant of the floats it uses, and the options
    of the compiler for it. ``processors`` names the list that it is from."""

    name: str
    floats: str
    options: tuple[str, ...]
    processors: str

    @property
    def has_floats(self) -> bool:
        """Whether it has a variant of the floats of its own."""
        return self.floats == self.name


def read_isas(folder: Path) -> tuple[Isa, ...]:
    """The sets of ``isas.h`` in a folder, in its order: those of a processor from the plainest on.

    Raises KernelError for a list that is not understood.
    """
    file = folder / FILE_NAME
    found: list[Isa] = []
    for line in file.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if line.startswith("#define ISAS_"):
            match = _LIST.fullmatch(line)
            if match is None:
                raise KernelError(f"{file}: a list is not understood: {line!r}")
            found += _read_list(file, match[1], match[2])
    if not found:
        raise KernelError(f"{file}: there are no instruction sets in it")
    return tuple(found)


def _read_list(file: Path, processors: str, text: str) -> list[Isa]:
    rows = list(_ROW.finditer(text))
    rest = _ROW.sub("", text).strip()
    if rest:
        raise KernelError(f"{file}: ISAS_{processors} is not understood at {rest!r}")
    return [
        Isa(row[1], row[2], tuple("".join(re.findall('"([^"]*)"', row[3])).split()), processors)
        for row in rows
    ]


def isas_for(machine: str, isas: tuple[Isa, ...]) -> tuple[Isa, ...]:
    """Those for a processor, as ``platform.machine`` calls it; none if it is not known."""
    if machine not in _LISTS:
        return ()
    return tuple(isa for isa in isas if isa.processors in (_EVERYWHERE, _LISTS[machine]))
