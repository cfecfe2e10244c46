"""The tile kernels compiled for this CPU, called on NumPy arrays."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

SOURCES = Path(__file__).parents[3] / "kernels" / "src"
COMPILERS = ("g++", "clang++", "c++")

CANARY = 0xA5
_PAGE = 4096


class Buffer:
    """An array at ``offset`` bytes from a page, with canary bytes on both sides."""

    def __init__(self, content: NDArray[Any], offset: int = 0) -> None:
        self._memory = np.full(content.nbytes + 3 * _PAGE, CANARY, np.uint8)
        self._start = -self._memory.ctypes.data % _PAGE + _PAGE + offset
        self._end = self._start + content.nbytes
        inside = self._memory[self._start : self._end]
        self.array = inside.view(content.dtype).reshape(content.shape)
        self.array[...] = content

    def outside_is_untouched(self) -> bool:
        before, after = self._memory[: self._start], self._memory[self._end :]
        return bool(np.all(before == CANARY) and np.all(after == CANARY))


def compiler() -> str:
    """The C++ compiler. Skips the test where there is none."""
    found = os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)
    if found is None or shutil.which("make") is None:
        pytest.skip("no C++ compiler or no make: install g++ and make to test the tile kernels")
    return found


def build(folder: Path) -> ctypes.CDLL:
    """The library, compiled into ``folder``."""
    subprocess.run(
        ["make", "--silent", "-C", str(SOURCES), f"BUILD={folder}", f"CXX={compiler()}"], check=True
    )
    return ctypes.CDLL(str(folder / "libtile_kernels.so"))


def call(library: ctypes.CDLL, kernel: str, *buffers: Buffer) -> None:
    function = getattr(library, kernel)
    function.restype = None
    function(*(ctypes.c_void_p(buffer.array.ctypes.data) for buffer in buffers))
