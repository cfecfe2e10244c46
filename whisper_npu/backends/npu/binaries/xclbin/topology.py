"""Memories, instances of kernels (IPs), and which argument of which IP lies in which memory."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from whisper_npu.backends.npu.binaries.xclbin.container import MAX_ENTRIES, named
from whisper_npu.files.span import Span


@dataclass(frozen=True)
class MemoryBank:
    """A memory bank: ``size`` bytes at ``base_address``."""

    type: str
    used: bool
    size: int
    base_address: int
    tag: str


@dataclass(frozen=True)
class Ip:
    """An instance of a kernel, named "kernel:instance". The last three are those of PS kernels."""

    type: str
    name: str
    subtype: str | None
    functional: int | None
    kernel_id: int | None


@dataclass(frozen=True)
class Connection:
    """``argument`` of the IP with index ``ip`` lies in the memory with index ``memory``."""

    argument: int
    ip: int
    memory: int


_MEMORY_TYPES = dict(
    enumerate(
        (
            "DDR3",
            "DDR4",
            "DRAM",
            "STREAMING",
            "PREALLOCATED_GLOB",
            "ARE",
            "HBM",
            "BRAM",
            "URAM",
            "STREAMING_CONNECTION",
            "HOST",
            "PS_KERNEL",
        )
    )
)
_IP_TYPES = dict(
    enumerate(
        (
            "MB",
            "KERNEL",
            "DNASC",
            "DDR4_CONTROLLER",
            "MEM_DDR4",
            "MEM_HBM",
            "MEM_HBM_ECC",
            "PS_KERNEL",
        )
    )
)
_PS_SUBTYPES = {0: "PS", 1: "DPU"}

_COUNT = struct.Struct("<i")
_MEMORY = struct.Struct("<BB6xQQ")  # type, used, KiB, base address; then a tag of 16 bytes
_TAG_SIZE = 16
_IP = struct.Struct("<II8x")  # type, properties; then a name of 64 bytes
_IP_NAME_SIZE = 64
_CONNECTION = struct.Struct("<iii")


def parse_memories(section: Span) -> tuple[MemoryBank, ...]:
    """MEM_TOPOLOGY and GROUP_TOPOLOGY. Raises XclbinError."""
    memories = []
    for at in _entries(section, 8, _MEMORY.size + _TAG_SIZE, "memories"):
        kind, used, kib, base = section.unpack(_MEMORY, at, "a memory")
        tag = section.text(at + _MEMORY.size, _TAG_SIZE, "a memory's tag")
        memories.append(MemoryBank(named(_MEMORY_TYPES, kind), used != 0, kib << 10, base, tag))
    return tuple(memories)


def parse_ip_layout(section: Span) -> tuple[Ip, ...]:
    """IP_LAYOUT. Raises XclbinError."""
    ips = []
    for at in _entries(section, 8, _IP.size + _IP_NAME_SIZE, "IPs"):
        kind, properties = section.unpack(_IP, at, "an IP")
        name = section.text(at + _IP.size, _IP_NAME_SIZE, "an IP's name")
        type_name = named(_IP_TYPES, kind)
        if type_name == "PS_KERNEL":
            subtype = named(_PS_SUBTYPES, properties & 3)
            ip = Ip(type_name, name, subtype, properties >> 4 & 3, properties >> 16 & 0xFFF)
        else:
            ip = Ip(type_name, name, None, None, None)
        ips.append(ip)
    return tuple(ips)


def parse_connectivity(section: Span) -> tuple[Connection, ...]:
    """CONNECTIVITY and GROUP_CONNECTIVITY. Raises XclbinError."""
    connections = []
    for at in _entries(section, 4, _CONNECTION.size, "connections"):
        values = section.unpack(_CONNECTION, at, "a connection")
        if min(values) < 0:
            raise section.fail(at, f"a connection has a negative index: {values}")
        connections.append(Connection(*values))
    return tuple(connections)


def argument_memories(
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


def _entries(section: Span, first: int, size: int, what: str) -> range:
    """Offsets of the entries of a table: a count, then the entries from offset ``first``."""
    (count,) = section.unpack(_COUNT, 0, f"the number of {what}")
    if not 0 <= count <= MAX_ENTRIES:
        raise section.fail(0, f"{count} {what}, 0 to {MAX_ENTRIES} are read")
    section.part(first, count * size, f"a table of {count} {what}")
    return range(first, first + count * size, size)
