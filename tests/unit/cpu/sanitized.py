"""All cases of all CPU kernels on a library with sanitizers: test_sanitizers.py runs this.

    LD_PRELOAD=libasan.so python -m tests.unit.cpu.sanitized LIBRARY

A sanitizer ends the process at the first fault. Arrays are blocks of memory without a byte to
spare: what is read beyond one is found, where verification has a margin for it.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np

from whisper_npu.backends.cpu import verify_library
from whisper_npu.backends.cpu.library import Library, Scratch
from whisper_npu.runtime.backend import Array

_libc = ctypes.CDLL(None)
_libc.memalign.restype = ctypes.c_void_p
_libc.memalign.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
_libc.free.restype, _libc.free.argtypes = None, [ctypes.c_void_p]


class Block:
    """Memory from a multiple of 64 on, whose beginning and end the sanitizer guards."""

    def __init__(self, nbytes: int) -> None:
        self.address = _libc.memalign(64, nbytes)
        if self.address is None:
            raise MemoryError

    def __del__(self) -> None:
        _libc.free(self.address)


class Exact(verify_library.Guarded):
    """A copy of an array, with its strides, that ends where its block does."""

    def __init__(self, content: Array, beyond: int = 0) -> None:
        used = verify_library.span(content)
        before = beyond * content.itemsize % 64
        self._block = Block(before + used)
        memory = (ctypes.c_uint8 * (before + used)).from_address(self._block.address)
        self.array = np.ndarray(content.shape, content.dtype, memory, before, content.strides)
        self.array[...] = content

    def is_intact(self) -> bool:
        return True


class ExactScratch(Scratch):
    """Scratch without a byte to spare."""

    def reserve(self, nbytes: int) -> None:
        self._block = Block(nbytes * self.threads)
        self._args.data, self._args.bytes = self._block.address, nbytes


def main() -> None:
    """Verify the library; prints how many cases were run, and fails if one gave a wrong result."""
    verify_library.Guarded, verify_library.Scratch = Exact, ExactScratch  # type: ignore[misc]
    found = verify_library.verify_library(Library(Path(sys.argv[1])), "")
    for evidence in found:
        if evidence.failure is not None:
            raise SystemExit(f"{evidence.kernel}, {evidence.isa}: {evidence.failure}")
    print(len(found), "kernels,", sum(evidence.cases for evidence in found), "cases")


if __name__ == "__main__":
    main()
