"""Checked access to the bytes of a file that may hold anything."""

from __future__ import annotations

import io
import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

from whisper_npu.errors import WhisperNpuError


@dataclass(frozen=True)
class Span:
    """``size`` bytes of ``file`` from ``start``; every access outside of them raises ``error``.

    Offsets are relative to the span; messages name the byte of the file.
    """

    file: BinaryIO
    name: str
    error: type[WhisperNpuError]
    start: int
    size: int

    @classmethod
    def of(cls, data: bytes, name: str, error: type[WhisperNpuError]) -> Span:
        """All of ``data``, which messages call ``name``."""
        return cls(io.BytesIO(data), name, error, 0, len(data))

    @classmethod
    def of_file(cls, file: BinaryIO, error: type[WhisperNpuError]) -> Span:
        """All of a file that is open."""
        return cls(file, file.name, error, 0, os.fstat(file.fileno()).st_size)

    def fail(self, offset: int, reason: str) -> WhisperNpuError:
        """The error to raise for what was found at ``offset``."""
        at = self.start + offset
        return self.error(f"{self.name}: byte {at} (0x{at:x}): {reason}; get an intact copy")

    def part(self, offset: int, size: int, what: str) -> Span:
        """The span of ``what``, which has to lie in this one."""
        self._check(offset, size, what)
        return Span(self.file, self.name, self.error, self.start + offset, size)

    def unpack(self, form: struct.Struct, offset: int, what: str) -> tuple[int, ...]:
        """The integers of ``form`` at ``offset``."""
        return form.unpack(self.raw(offset, form.size, what))

    def raw(self, offset: int, size: int, what: str) -> bytes:
        """A copy of ``size`` bytes at ``offset``."""
        self._check(offset, size, what)
        self.file.seek(self.start + offset)
        data = self.file.read(size)
        if len(data) != size:
            raise self.fail(offset, f"the file was cut within {what} while it was read")
        return data

    def text(self, offset: int, size: int, what: str) -> str:
        """A string of at most ``size`` bytes, which ends at the first zero byte."""
        return self.raw(offset, size, what).split(b"\0", 1)[0].decode("utf-8", "replace")

    def _check(self, offset: int, size: int, what: str) -> None:
        if size > self.size - offset or offset < 0 or size < 0:
            raise self.fail(
                offset, f"{what} of {size} bytes does not fit into the {self.size} bytes there are"
            )


class Reader:
    """Takes one thing after the other from a span, from its start.

    ``what`` names each in the span's error, which is raised where the span ends too early.
    """

    def __init__(self, span: Span) -> None:
        self.span = span
        self.position = 0

    @property
    def left(self) -> int:
        """Bytes that were not taken yet."""
        return self.span.size - self.position

    def unpack(self, layout: str, what: str) -> tuple[int, ...]:
        """Integers in ``struct`` notation, of little-endian order."""
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout), what))

    def take(self, size: int, what: str) -> bytes:
        """The next ``size`` bytes."""
        taken = self.span.raw(self.position, size, what)
        self.position += size
        return taken

    def skip(self, size: int, what: str) -> int:
        """Pass over ``size`` bytes; gives where in the file they begin."""
        start = self.span.part(self.position, size, what).start
        self.position += size
        return start
