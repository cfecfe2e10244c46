"""Checked access to the bytes of a file that may hold anything."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from whisper_npu.errors import KernelError


@dataclass(frozen=True)
class Span:
    """``size`` bytes of ``data`` from ``start``; every access outside of them raises ``error``.

    Offsets are relative to the span; messages name the byte of the file.
    """

    data: bytes
    name: str
    error: type[KernelError]
    start: int
    size: int

    def fail(self, offset: int, reason: str) -> KernelError:
        """The error to raise for what was found at ``offset``."""
        at = self.start + offset
        return self.error(f"{self.name}: byte {at} (0x{at:x}): {reason}; get an intact copy")

    def part(self, offset: int, size: int, what: str) -> Span:
        """The span of ``what``, which has to lie in this one."""
        if size > self.size - offset or offset < 0 or size < 0:
            raise self.fail(
                offset, f"{what} of {size} bytes does not fit into the {self.size} bytes there are"
            )
        return Span(self.data, self.name, self.error, self.start + offset, size)

    def unpack(self, form: struct.Struct, offset: int, what: str) -> tuple[int, ...]:
        """The integers of ``form`` at ``offset``."""
        self.part(offset, form.size, what)
        return form.unpack_from(self.data, self.start + offset)

    def raw(self, offset: int, size: int, what: str) -> bytes:
        """A copy of ``size`` bytes at ``offset``."""
        part = self.part(offset, size, what)
        return part.data[part.start : part.start + part.size]

    def text(self, offset: int, size: int, what: str) -> str:
        """A string of at most ``size`` bytes, which ends at the first zero byte."""
        return self.raw(offset, size, what).split(b"\0", 1)[0].decode("utf-8", "replace")


def read_file(path: str | os.PathLike[str], limit: int, error: type[KernelError]) -> bytes:
    """All of a file of at most ``limit`` bytes. Raises ``error``."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(limit + 1)
    except OSError as reason:
        raise error(f"{path}: cannot be read: {reason.strerror}") from reason
    if len(data) > limit:
        raise error(f"{path}: more than the {limit} bytes that are read")
    return data
