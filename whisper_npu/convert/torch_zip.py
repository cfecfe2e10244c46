"""The zip archives that torch.save writes: where each member's bytes are.

Only what torch writes is accepted: members stored as they are, so nothing can unpack to more than
the file, in one archive without encryption. Layout: PKWARE's APPNOTE.TXT, sections 4.3 and 4.5.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from typing import NoReturn

from whisper_npu.errors import ModelError

_END = struct.Struct("<4s4H2IH")
_END64_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_LONGEST_COMMENT = 0xFFFF
_IN_ZIP64 = 0xFFFFFFFF
_ENCRYPTED = 1

# A large-v3 has 1,260 members of some 80 bytes in the directory.
_LARGEST_DIRECTORY = 8 << 20


@dataclass(frozen=True)
class Member:
    """The bytes of a member: from byte ``start`` of the archive."""

    start: int
    size: int


def zip_members(file: BufferedReader) -> dict[str, Member]:
    """The members of a zip archive by name. Raises ModelError."""
    size = os.fstat(file.fileno()).st_size
    start, length, count = _directory(file, size)
    directory = _read(file, start, length)
    members: dict[str, Member] = {}
    at = 0
    for _ in range(count):
        name, member, at = _entry(file, directory, at, size)
        if name in members:
            _damaged(file, f"has two members {name!r}")
        members[name] = member
    return members


def _damaged(file: BufferedReader, problem: str) -> NoReturn:
    raise ModelError(f"{file.name}: as a zip archive, {problem}; it is not as torch.save writes it")


def _read(file: BufferedReader, start: int, length: int) -> bytes:
    file.seek(start)
    raw = file.read(length)
    if len(raw) < length:
        _damaged(file, f"ends within {length} bytes from byte {start}")
    return raw


def _directory(file: BufferedReader, size: int) -> tuple[int, int, int]:
    """Start, length and number of entries of the central directory."""
    tail_start = max(0, size - _END.size - _LONGEST_COMMENT)
    tail = _read(file, tail_start, size - tail_start)
    end = tail.rfind(b"PK\5\6", 0, len(tail) - _END.size + 4)
    if end < 0:
        _damaged(file, "has no end of its directory (is the download complete?)")
    count, length, start = _END.unpack_from(tail, end)[4:7]
    locator_at = tail_start + end - _END64_LOCATOR.size
    if locator_at >= 0:
        locator = _read(file, locator_at, _END64_LOCATOR.size)
        if locator[:4] == b"PK\6\7":
            end64_at = _END64_LOCATOR.unpack(locator)[2]
            if end64_at > size - _END64.size:
                _damaged(file, f"has its directory's end at byte {end64_at} of {size}")
            end64 = _read(file, end64_at, _END64.size)
            if end64[:4] != b"PK\6\6":
                _damaged(file, "has no zip64 end of its directory where it points to")
            count, length, start = _END64.unpack(end64)[7:10]
    if start + length > size or length > _LARGEST_DIRECTORY or count * _ENTRY.size > length:
        _damaged(file, f"has a directory of {count} entries and {length} bytes from byte {start}")
    return start, length, count


def _entry(file: BufferedReader, directory: bytes, at: int, size: int) -> tuple[str, Member, int]:
    """Name and place of the entry at byte ``at`` of the directory, and where the next begins."""
    if at + _ENTRY.size > len(directory) or directory[at : at + 4] != b"PK\1\2":
        _damaged(file, "has no entry where its directory should have one")
    fields = _ENTRY.unpack_from(directory, at)
    flags, method, packed, unpacked = fields[3], fields[4], fields[8], fields[9]
    name_length, extra_length, comment_length, offset = *fields[10:13], fields[16]
    name_at = at + _ENTRY.size
    extra_at = name_at + name_length
    end = extra_at + extra_length + comment_length
    if end > len(directory):
        _damaged(file, "has an entry that passes the end of its directory")
    name = directory[name_at:extra_at].decode("utf-8", errors="replace")
    if method != 0 or flags & _ENCRYPTED:
        _damaged(file, f"has a member {name[:100]!r} that is compressed or encrypted")
    wide = _zip64_sizes(directory[extra_at : extra_at + extra_length])
    unpacked, packed, offset = (
        next(wide, -1) if value == _IN_ZIP64 else value for value in (unpacked, packed, offset)
    )
    if packed != unpacked or packed < 0 or not 0 <= offset <= size - _LOCAL.size:
        _damaged(file, f"has a member {name[:100]!r} of impossible size or place")
    local = _read(file, offset, _LOCAL.size)
    if local[:4] != b"PK\3\4":
        _damaged(file, f"has no member {name[:100]!r} where its directory says")
    start = offset + _LOCAL.size + sum(_LOCAL.unpack(local)[9:11])
    if start + packed > size:
        _damaged(file, f"has a member {name[:100]!r} that passes the end of the file")
    return name, Member(start, packed), end


def _zip64_sizes(extra: bytes) -> Iterator[int]:
    """The 64-bit values of an entry, in the order of the fields they replace."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            for value_at in range(at + 4, min(at + 4 + length, len(extra)) - 7, 8):
                yield struct.unpack_from("<Q", extra, value_at)[0]
            return
        at += 4 + length
