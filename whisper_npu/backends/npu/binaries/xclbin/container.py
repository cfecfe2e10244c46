"""The ``axlf`` container: the header of an xclbin and its sections, whatever is in them.

Layout: XRT's public header ``xrt/detail/xclbin.h``.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from whisper_npu.errors import KernelError
from whisper_npu.files.span import Span

MAGIC = b"xclbin2\0"

# Of any table of any section. NPU files have a few dozen; the bound keeps hostile ones from filling
# the memory.
MAX_ENTRIES = 1 << 14

_SECTION_KINDS = {
    0: "BITSTREAM",
    2: "EMBEDDED_METADATA",
    6: "MEM_TOPOLOGY",
    7: "CONNECTIVITY",
    8: "IP_LAYOUT",
    14: "BUILD_METADATA",
    15: "KEYVALUE_METADATA",
    16: "USER_METADATA",
    18: "PDI",
    20: "PARTITION_METADATA",
    22: "SYSTEM_METADATA",
    23: "SOFT_KERNEL",
    25: "AIE_METADATA",
    26: "GROUP_TOPOLOGY",
    27: "GROUP_CONNECTIVITY",
    29: "AIE_RESOURCES",
    31: "VENDER_METADATA",
    32: "AIE_PARTITION",
    33: "IP_METADATA",
    34: "AIE_RESOURCES_BIN",
    35: "AIE_TRACE_METADATA",
}

_SIGNATURE_LENGTH = struct.Struct("<i")
_LENGTHS = struct.Struct("<QQQHBBHH")  # at 304: length, times, version, mode, action mask
_COUNT = struct.Struct("<I")
_SECTION = struct.Struct("<I20xQQ")  # kind, (name, padding,) offset, size

_SIGNATURE_LENGTH_AT = 8
_LENGTHS_AT = 304
_INTERFACE_UUID_AT = 336
_PLATFORM_AT = 352
_UUID_AT = 416
_SECTION_COUNT_AT = 448
_SECTIONS_AT = 456


class XclbinError(KernelError):
    """An xclbin that cannot be read or breaks its format; the message gives byte and reason."""


@dataclass(frozen=True)
class Section:
    """One section: ``size`` bytes at ``offset`` of the file."""

    kind: str
    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Header:
    """What an xclbin says of itself. Times are seconds since 1970."""

    version: str
    timestamp: int
    feature_rom_timestamp: int
    mode: int
    action_mask: int
    signed: bool
    uuid: UUID
    interface_uuid: UUID
    platform: str


def named(names: Mapping[int, str], number: int) -> str:
    """The name of a number, or the number where it has none."""
    return names.get(number, str(number))


def parse_header(file: Span) -> Header:
    """The header of a whole file. Raises XclbinError."""
    if file.raw(0, min(file.size, len(MAGIC)), "the magic") != MAGIC:
        raise file.fail(0, 'an xclbin begins with "xclbin2", this does not')
    (signature,) = file.unpack(_SIGNATURE_LENGTH, _SIGNATURE_LENGTH_AT, "the header")
    length, timestamp, rom_timestamp, patch, major, minor, mode, actions = file.unpack(
        _LENGTHS, _LENGTHS_AT, "the header"
    )
    if length + max(signature, 0) != file.size:
        raise file.fail(_LENGTHS_AT, f"it was written with {length} bytes and has {file.size}")
    return Header(
        version=f"{major}.{minor}.{patch}",
        timestamp=timestamp,
        feature_rom_timestamp=rom_timestamp,
        mode=mode,
        action_mask=actions,
        signed=signature >= 0,
        uuid=UUID(bytes=file.raw(_UUID_AT, 16, "the uuid")),
        interface_uuid=UUID(bytes=file.raw(_INTERFACE_UUID_AT, 16, "the interface uuid")),
        platform=file.text(_PLATFORM_AT, 64, "the platform name"),
    )


def parse_sections(file: Span) -> tuple[tuple[Section, ...], dict[str, Span]]:
    """All sections, and the span of the first of each kind, which is the one that XRT takes.

    Raises XclbinError.
    """
    (count,) = file.unpack(_COUNT, _SECTION_COUNT_AT, "the header")
    if count > MAX_ENTRIES:
        raise file.fail(_SECTION_COUNT_AT, f"{count} sections, at most {MAX_ENTRIES} are read")
    file.part(_SECTIONS_AT, count * _SECTION.size, "the table of sections")
    sections: list[Section] = []
    spans: dict[str, Span] = {}
    for i in range(count):
        at = _SECTIONS_AT + i * _SECTION.size
        number, offset, size = file.unpack(_SECTION, at, "a section header")
        kind = named(_SECTION_KINDS, number)
        if offset < _SECTIONS_AT + count * _SECTION.size or size > file.size - offset:
            raise file.fail(
                at, f"section {kind} of {size} bytes at {offset} is outside of the sections"
            )
        sections.append(Section(kind, file.text(at + 4, 16, "a section name"), offset, size))
        spans.setdefault(kind, file.part(offset, size, f"section {kind}"))
    return tuple(sections), spans
