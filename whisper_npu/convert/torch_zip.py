"""The zip archives that torch.save writes: where each member's bytes are.

Only what torch writes is accepted: members stored as they are, so nothing can unpack to more than
the file, in one archive without encryption. Layout: PKWARE's APPNOTE.TXT, sections 4.3 and 4.5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from typing import NoReturn

from whisper_npu.errors import ModelError
from whisper_npu.files.span import Span

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
    archive = Span.of_file(file, ModelError)
    start, length, count = _directory(archive)
    directory = archive.raw(start, length, "the directory")
    members: dict[str, Member] = {}
    at = 0
    for _ in range(count):
        name, member, at = _entry(archive, directory, at)
        if name in members:
            _damaged(archive, f"has two members {name!r}")
        members[name] = member
    return members


def _damaged(archive: Span, problem: str) -> NoReturn:
    raise ModelError(
        f"{archive.name}: as a zip archive, {problem}; it is not as torch.save writes it"
    )


def _directory(archive: Span) -> tuple[int, int, int]:
    """Start, length and number of entries of the central directory."""
    size = archive.size
    tail_start = max(0, size - _END.size - _LONGEST_COMMENT)
    tail = archive.raw(tail_start, size - tail_start, "the end")
    end = tail.rfind(b"PK\5\6", 0, len(tail) - _END.size + 4)
    if end < 0:
        _damaged(archive, "has no end of its directory (is the download complete?)")
    count, length, start = _END.unpack_from(tail, end)[4:7]
    locator_at = tail_start + end - _END64_LOCATOR.size
    if locator_at >= 0:
        locator = archive.raw(locator_at, _END64_LOCATOR.size, "the end")
        if locator[:4] == b"PK\6\7":
            end64_at = _END64_LOCATOR.unpack(locator)[2]
            if end64_at > size - _END64.size:
                _damaged(archive, f"has its directory's end at byte {end64_at} of {size}")
            end64 = archive.raw(end64_at, _END64.size, "the end of the directory")
            if end64[:4] != b"PK\6\6":
                _damaged(archive, "has no zip64 end of its directory where it points to")
            count, length, start = _END64.unpack(end64)[7:10]
    if start + length > size or length > _LARGEST_DIRECTORY or count * _ENTRY.size > length:
        _damaged(
            archive, f"has a directory of {count} entries and {length} bytes from byte {start}"
        )
    return start, length, count


def _entry(archive: Span, directory: bytes, at: int) -> tuple[str, Member, int]:
    """Name and place of the entry at byte ``at`` of the directory, and where the next begins."""
    if at + _ENTRY.size > len(directory) or directory[at : at + 4] != b"PK\1\2":
        _damaged(archive, "has no entry where its directory should have one")
    fields = _ENTRY.unpack_from(directory, at)
    flags, method, packed, unpacked = fields[3], fields[4], fields[8], fields[9]
    name_length, extra_length, comment_length, offset = *fields[10:13], fields[16]
    name_at = at + _ENTRY.size
    extra_at = name_at + name_length
    end = extra_at + extra_length + comment_length
    if end > len(directory):
        _damaged(archive, "has an entry that passes the end of its directory")
    name = directory[name_at:extra_at].decode("utf-8", errors="replace")
    if method != 0 or flags & _ENCRYPTED:
        _damaged(archive, f"has a member {name[:100]!r} that is compressed or encrypted")
    wide = _zip64_sizes(directory[extra_at : extra_at + extra_length])
    unpacked, packed, offset = (
        next(wide, -1) if value == _IN_ZIP64 else value for value in (unpacked, packed, offset)
    )
    if packed != unpacked or packed < 0 or not 0 <= offset <= archive.size - _LOCAL.size:
        _damaged(archive, f"has a member {name[:100]!r} of impossible size or place")
    local = archive.raw(offset, _LOCAL.size, "a member's header")
    if local[:4] != b"PK\3\4":
        _damaged(archive, f"has no member {name[:100]!r} where its directory says")
    start = offset + _LOCAL.size + sum(_LOCAL.unpack(local)[9:11])
    if start + packed > archive.size:
        _damaged(archive, f"has a member {name[:100]!r} that passes the end of the file")
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
