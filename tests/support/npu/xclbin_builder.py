"""Writes xclbin files, those that xclbinutil would refuse to make too."""

from __future__ import annotations

import struct
from collections.abc import Sequence

MEM_TOPOLOGY, CONNECTIVITY, IP_LAYOUT = 6, 7, 8
EMBEDDED_METADATA, AIE_PARTITION = 2, 32

KERNEL_XML = (
    '<project><platform><device><core><kernel name="K" type="dpu">'
    '<extended-data subtype="1" functional="0" dpu_kernel_id="0x901"/>'
    '<arg name="bo0" addressQualifier="1" id="3" size="0x8" offset="0x14" type="void*"/>'
    '<instance name="one"/></kernel></core></device></platform></project>'
)


def memories(*tags: str) -> bytes:
    entries = [struct.pack("<BB6xQQ16s", 2, 1, 1024, 0x4000000, tag.encode()) for tag in tags]
    return struct.pack("<i4x", len(tags)) + b"".join(entries)


def ips(*names: str) -> bytes:
    properties = 0x901 << 16 | 1
    entries = [struct.pack("<IIQ64s", 7, properties, 0, name.encode()) for name in names]
    return struct.pack("<i4x", len(names)) + b"".join(entries)


def connections(*rows: tuple[int, int, int]) -> bytes:
    return struct.pack("<i", len(rows)) + b"".join(struct.pack("<iii", *row) for row in rows)


def partition(pdi: bytes, *, starts: Sequence[int] = (1, 2), name: bytes = b"QoS\0") -> bytes:
    """One PDI with one CDO group of one kernel id. The arrays follow one another."""
    at = 184
    parts = [b""]

    def place(data: bytes) -> int:
        nonlocal at
        offset = at
        parts.append(data + bytes(-len(data) % 8))
        at += len(parts[-1])
        return offset

    name_at = place(name)
    starts_at = place(struct.pack(f"<{len(starts)}H", *starts))
    image_at = place(pdi)
    ids_at = place(struct.pack("<Q", 0x901))
    group_at = place(struct.pack("<IB3xQIIII64x", name_at, 1, 1, 1, ids_at, 0, 0))
    pdi_at = place(struct.pack("<16sIIII64x", bytes(range(16)), len(pdi), image_at, 1, group_at))
    head = struct.pack(
        "<B3xII4xQQH6xII72xIII52x",
        *(0, name_at, 2048, 1, 2, 1, len(starts), starts_at, 1, pdi_at, 0),
    )
    return head + b"".join(parts)


def xclbin(*sections: tuple[int, bytes]) -> bytes:
    at = 456 + 40 * len(sections)
    headers, bodies = b"", b""
    for kind, data in sections:
        padding = bytes(-(at + len(bodies)) % 8)
        bodies += padding
        headers += struct.pack("<I16s4xQQ", kind, b"", at + len(bodies), len(data))
        bodies += data
    length = at + len(bodies)
    head = b"xclbin2\0" + struct.pack("<i", -1) + b"\xff" * 284 + struct.pack("<Q", 0)
    head += struct.pack("<QQQHBBHH", length, 0, 0, 0, 2, 25, 0, 0)
    # Interface uuid, platform, uuid, name of a debug file, number of sections.
    head += bytes(16 + 64) + bytes(range(16)) + bytes(16) + struct.pack("<I4x", len(sections))
    return head + headers + bodies
