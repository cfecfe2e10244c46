"""Reading little-endian fields of a binary file without believing any of them."""

from __future__ import annotations

import os
import struct
from io import BufferedReader

from whisper_npu.errors import ModelError


class BinaryReader:
    """Fields of a file from its start; every length is compared with the file before it is read.

    Methods raise ModelError where the file ends too early.
    """

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self.size = os.fstat(file.fileno()).st_size

    @property
    def position(self) -> int:
        return self._file.tell()

    @property
    def left(self) -> int:
        return self.size - self.position

    def integers(self, layout: str) -> tuple[int, ...]:
        """Integers in ``struct`` notation, of little-endian order."""
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))

    def take(self, count: int) -> bytes:
        self._check(count)
        return self._file.read(count)

    def skip(self, count: int) -> int:
        """Pass over ``count`` bytes; returns where they begin."""
        self._check(count)
        start = self.position
        self._file.seek(count, os.SEEK_CUR)
        return start

    def _check(self, count: int) -> None:
        if not 0 <= count <= self.left:
            raise ModelError(
                f"{self._file.name}: ends at byte {self.size}; {count} bytes are due "
                f"from byte {self.position}"
            )
