"""xclbin files (magic "xclbin2"), as far as an NPU's kernels need them. XRT itself is not needed.

``container`` has the header and the sections; ``topology``, ``metadata`` and ``partition`` read
what is in them: memories and what is connected to them, kernels and their arguments, and the
configurations of the array.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from whisper_npu.backends.npu.binaries.xclbin.container import (
    MAGIC,
    Section,
    XclbinError,
    parse_header,
    parse_sections,
)
from whisper_npu.backends.npu.binaries.xclbin.metadata import DeclaredKernel, parse_metadata
from whisper_npu.backends.npu.binaries.xclbin.partition import Partition, parse_partition
from whisper_npu.backends.npu.binaries.xclbin.topology import (
    Connection,
    Ip,
    MemoryBank,
    argument_memories,
    parse_connectivity,
    parse_ip_layout,
    parse_memories,
)
from whisper_npu.files.span import Span
from whisper_npu.files.whole import read_file

__all__ = ["MAGIC", "MAX_FILE_SIZE", "Xclbin", "XclbinError", "parse_xclbin", "read_xclbin"]

_Row = TypeVar("_Row")

# Files for NPUs have some MB at most.
MAX_FILE_SIZE = 64 << 20


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
    header = parse_header(file)
    sections, spans = parse_sections(file)
    memories = _table(spans, "MEM_TOPOLOGY", parse_memories)
    ips = _table(spans, "IP_LAYOUT", parse_ip_layout)
    connections = _table(spans, "CONNECTIVITY", parse_connectivity)
    of_arguments = argument_memories(ips, connections)
    partition = spans.get("AIE_PARTITION")
    return Xclbin(
        path=name,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        **vars(header),
        sections=sections,
        memories=memories,
        group_memories=_table(spans, "GROUP_TOPOLOGY", parse_memories),
        ips=ips,
        connections=connections,
        group_connections=_table(spans, "GROUP_CONNECTIVITY", parse_connectivity),
        kernels=_table(
            spans, "EMBEDDED_METADATA", lambda section: parse_metadata(section, of_arguments)
        ),
        partition=parse_partition(partition) if partition else None,
    )


def _table(
    spans: Mapping[str, Span], kind: str, parse: Callable[[Span], tuple[_Row, ...]]
) -> tuple[_Row, ...]:
    span = spans.get(kind)
    return parse(span) if span else ()
