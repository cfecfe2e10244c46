"""xclbin files (the ``axlf`` container, magic "xclbin2"), as far as an NPU's kernels need them.

Layouts: XRT's public header ``xrt/detail/xclbin.h``. XRT itself is not needed.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from whisper_npu.backends.npu.binaries.xclbin_metadata import DeclaredKernel, parse_metadata
from whisper_npu.backends.npu.binaries.xclbin_partition import Partition, parse_partition
from whisper_npu.backends.npu.binaries.xclbin_tables import (
    MAX_ENTRIES,
    Connection,
    Ip,
    MemoryBank,
    XclbinError,
    named,
    parse_connectivity,
    parse_ip_layout,
    parse_memories,
)
from whisper_npu.files.span import Span
from whisper_npu.files.whole import read_file

_Row = TypeVar("_Row")

MAGIC = b"xclbin2\0"

# Files for NPUs have some MB at most.
MAX_FILE_SIZE = 64 << 20

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


@dataclass(frozen=True)
class Section:
    """One section: ``size`` bytes at ``offset`` of the file."""

    kind: str
    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Xclbin:
    """What is in an xclbin file. Times are seconds since 1970, sizes are bytes."""

    path: str
    size: int
    sha256: str
    version: str
    timestamp: int
    feature_rom_timestamp: int
    mode: int
    action_mask: int
    signed: bool
    uuid: UUID
    interface_uuid: UUID
    platform: str
    sections: tuple[Section, ...]
    memories: tuple[MemoryBank, ...]
    group_memories: tuple[MemoryBank, ...]
    ips: tuple[Ip, ...]
    connections: tuple[Connection, ...]
    group_connections: tuple[Connection, ...]
    kernels: tuple[DeclaredKernel, ...]
    partition: Partition | None


def read_xclbin(path: str | os.PathLike[str]) -> Xclbin:
    """Read an xclbin file. Raises XclbinError, which gives the byte and the reason."""
    return parse_xclbin(read_file(path, MAX_FILE_SIZE, XclbinError), str(path))


def parse_xclbin(data: bytes, name: str) -> Xclbin:
    """The xclbin in ``data``; ``name`` is what errors call it. Raises XclbinError."""
    file = Span.of(data, name, XclbinError)
    if data[: len(MAGIC)] != MAGIC:
        raise file.fail(0, 'an xclbin begins with "xclbin2", this does not')
    (signature,) = file.unpack(_SIGNATURE_LENGTH, _SIGNATURE_LENGTH_AT, "the header")
    length, timestamp, rom_timestamp, patch, major, minor, mode, actions = file.unpack(
        _LENGTHS, _LENGTHS_AT, "the header"
    )
    if length + max(signature, 0) != len(data):
        raise file.fail(_LENGTHS_AT, f"it was written with {length} bytes and has {len(data)}")
    sections, spans = _sections(file)
    memories = _table(spans, "MEM_TOPOLOGY", parse_memories)
    ips = _table(spans, "IP_LAYOUT", parse_ip_layout)
    connections = _table(spans, "CONNECTIVITY", parse_connectivity)
    argument_memories = _argument_memories(ips, connections)
    partition = spans.get("AIE_PARTITION")
    return Xclbin(
        path=name,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        version=f"{major}.{minor}.{patch}",
        timestamp=timestamp,
        feature_rom_timestamp=rom_timestamp,
        mode=mode,
        action_mask=actions,
        signed=signature >= 0,
        uuid=UUID(bytes=file.raw(_UUID_AT, 16, "the uuid")),
        interface_uuid=UUID(bytes=file.raw(_INTERFACE_UUID_AT, 16, "the interface uuid")),
        platform=file.text(_PLATFORM_AT, 64, "the platform name"),
        sections=sections,
        memories=memories,
        group_memories=_table(spans, "GROUP_TOPOLOGY", parse_memories),
        ips=ips,
        connections=connections,
        group_connections=_table(spans, "GROUP_CONNECTIVITY", parse_connectivity),
        kernels=_table(
            spans, "EMBEDDED_METADATA", lambda section: parse_metadata(section, argument_memories)
        ),
        partition=parse_partition(partition) if partition else None,
    )


def _table(
    spans: Mapping[str, Span], kind: str, parse: Callable[[Span], tuple[_Row, ...]]
) -> tuple[_Row, ...]:
    span = spans.get(kind)
    return parse(span) if span else ()


def _sections(file: Span) -> tuple[tuple[Section, ...], dict[str, Span]]:
    """All sections, and the span of the first of each kind, which is the one that XRT takes."""
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


def _argument_memories(
    ips: tuple[Ip, ...], connections: tuple[Connection, ...]
) -> dict[tuple[str, int], int]:
    """Index of the memory of each (kernel, argument); the first that is named counts."""
    memories: dict[tuple[str, int], int] = {}
    for connection in connections:
        if connection.ip < len(ips):
            # An IP is named "kernel:instance"; all instances of a kernel have the same memories.
            kernel = ips[connection.ip].name.partition(":")[0]
            memories.setdefault((kernel, connection.argument), connection.memory)
    return memories
