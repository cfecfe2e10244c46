"""What C libraries read a file through."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import IO

from whisper_npu.audio.sources import unreadable

# A damaged header may lead back to itself, and libsndfile round in a circle: so many calls in a row
# that give nothing, or so many times the whole file, are no reading. (Decoders of MP3 read a file
# twice, frame by frame, and demuxers go to and fro between the parts of a file.)
_CALLS_FOR_NOTHING = 100_000
_TIMES_THE_FILE = 256


class Reader:
    """A part of a file, from ``start`` to ``end``, with ``head`` in the place of what is before it.

    Positions count from the start of ``head``. A reader has no name: libsndfile and FFmpeg would
    take the format from the name's extension. And it keeps what goes wrong, as exceptions do not
    get through the C code that calls it: a failed read would be the end of the file. Who goes round
    in a circle comes to the end of the file.
    """

    def __init__(
        self, file: IO[bytes], start: int = 0, end: int | None = None, head: bytes = b""
    ) -> None:
        self._file, self._start, self._head = file, start, head
        # Shared by all readers of the file.
        self._errors: list[BaseException] = []
        self._position = 0
        if end is None:
            with suppress(ValueError, OSError):
                file.seek(0, os.SEEK_END)
            end = file.tell()
        self.size = len(head) + max(0, end - start)
        self.furthest = 0
        self._calls_for_nothing = 0
        self._bytes_left = _TIMES_THE_FILE * self.size

    def _goes_round(self) -> bool:
        """Whether whoever calls goes round in a circle; to be asked once a call."""
        self._calls_for_nothing += 1
        return self._calls_for_nothing > _CALLS_FOR_NOTHING or self._bytes_left < 0

    def part(self, start: int, end: int, head: bytes = b"") -> Reader:
        """A reader of a part of what this one reads, which must be after its own head."""
        shift = self._start - len(self._head)
        part = Reader(self._file, start + shift, end + shift, head)
        part._errors = self._errors
        return part

    def raise_error(self, name: str) -> None:
        """Raise what went wrong so far: AudioError, or what is no error but an interruption."""
        for error in self._errors:
            if isinstance(error, Exception):
                raise unreadable(name, error) from error
            raise error

    def read(self, size: int) -> bytes:
        at = self.size if self._goes_round() else self._position
        size = max(0, min(size, self.size - at))
        data = self._head[at : at + size]
        try:
            if len(data) < size:
                self._file.seek(self._start + at + len(data) - len(self._head))
                data += self._file.read(size - len(data))
        except BaseException as error:
            self._errors.append(error)
            return b""
        self._position = at + len(data)
        self.furthest = max(self.furthest, self._position)
        self._bytes_left -= len(data)
        if data:
            self._calls_for_nothing = 0
        return data

    def at(self, offset: int, size: int) -> bytes:
        """The bytes at a place: fewer than ``size`` where the file ends."""
        self._position = offset
        return self.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        # A damaged header may ask for a place before the start. The caller sees where it is.
        if base + offset >= 0:
            self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self.size if self._goes_round() else self._position
