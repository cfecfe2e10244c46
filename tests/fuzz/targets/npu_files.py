"""xclbin files and instruction streams: printed by ``kernels inspect``, or a KernelError.

Real and generated files are damaged along their structure.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path

from tests.support.npu import xclbin_builder as builder
from tests.support.npu.streams import pack, seed_stream, short_stream, with_operations
from whisper_npu.backends.npu.binaries.transaction import decode_transaction
from whisper_npu.backends.npu.binaries.transfers import check_transfers, decode_transfers
from whisper_npu.backends.npu.binaries.xclbin import MAGIC
from whisper_npu.backends.npu.families.gemm_stream import gemm_int8_stream
from whisper_npu.cli.kernels_inspect import inspect
from whisper_npu.cli.options import FORMATS
from whisper_npu.errors import KernelError

ROOT = Path(__file__).parents[3]
SECONDS = 2.0

XCLBINS = [
    *(file.read_bytes() for file in sorted((ROOT / "tests/data/npu").glob("*.xclbin"))),
    builder.xclbin(
        (builder.MEM_TOPOLOGY, builder.memories("HOST", "SRAM")),
        (builder.IP_LAYOUT, builder.ips("K:one")),
        (builder.CONNECTIVITY, builder.connections((3, 0, 1))),
        (builder.AIE_PARTITION, builder.partition(b"image")),
        (builder.EMBEDDED_METADATA, builder.KERNEL_XML.encode()),
    ),
]
STREAMS = [
    seed_stream(128, 64),
    short_stream(200, 20),
    gemm_int8_stream(64, 32, 16, (16, 16, 8)),
    with_operations(
        pack(5),
        pack(0x0206),
        pack(0x0309, 7),
        pack(0x83, 12, 99),
        pack(8, 0, 0, 0),
        pack(4, 0, 0x1D220, 0, 1, 3, 28),
    ),
]

INTERESTING = [0, 1, 2, 3, 4, 7, 8, 15, 16, 40, 96, 255, 256, 0x7FFF, 0xFFFF, 0x10000]
INTERESTING += [(1 << 31) - 1, 1 << 31, (1 << 32) - 4, (1 << 32) - 1]

Random = random.Random


def overwrite(chance: Random, data: bytearray) -> None:
    """A number anywhere."""
    form = chance.choice("BHIQ")
    size = struct.calcsize(form)
    if len(data) >= size:
        at = chance.randrange(len(data) - size + 1) // size * size
        value = chance.choice([*INTERESTING, len(data), chance.getrandbits(8 * size)])
        struct.pack_into(f"<{form}", data, at, value % (1 << 8 * size))


def nudge(chance: Random, data: bytearray) -> None:
    """A number that is there, a little larger or smaller."""
    if len(data) >= 4:
        at = chance.randrange(len(data) // 4) * 4
        (value,) = struct.unpack_from("<I", data, at)
        struct.pack_into("<I", data, at, (value + chance.choice((-8, -4, -1, 1, 4, 8))) % (1 << 32))


def flip(chance: Random, data: bytearray) -> None:
    """A bit."""
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def cut(chance: Random, data: bytearray) -> None:
    """A piece taken out, or the end."""
    at = chance.randrange(len(data) + 1)
    del data[at : chance.choice((at + 4 * chance.randrange(1, 20), len(data)))]


def copy(chance: Random, data: bytearray) -> None:
    """A piece put in or over another place."""
    start, at = chance.randrange(len(data) + 1), chance.randrange(len(data) + 1)
    piece = data[start : start + 4 * chance.randrange(1, 40)]
    data[at : at + chance.choice((0, len(piece)))] = piece


def section_field(chance: Random, data: bytearray) -> None:
    """A field of a section header: kind, offset or size."""
    if len(data) > 496:
        sections = max(1, min(16, struct.unpack_from("<I", data, 448)[0]))
        at = 456 + 40 * chance.randrange(sections) + chance.choice((0, 24, 32))
        if at + 8 <= len(data):
            value = chance.choice([*INTERESTING, len(data), *range(33), chance.getrandbits(64)])
            form, mask = ("<I", 0xFFFFFFFF) if (at - 456) % 40 == 0 else ("<Q", (1 << 64) - 1)
            struct.pack_into(form, data, at, value & mask)


def partition_field(chance: Random, data: bytearray) -> None:
    """A word of AIE_PARTITION before its PDIs' images."""
    for i in range(min(16, struct.unpack_from("<I", data.ljust(456, b"\0"), 448)[0])):
        if len(data) >= 456 + 40 * (i + 1):
            kind, offset, size = struct.unpack_from("<I20xQQ", data, 456 + 40 * i)
            if kind == builder.AIE_PARTITION and offset + size <= len(data) and size >= 4:
                at = offset + chance.randrange(size // 4) * 4
                value = chance.choice([*INTERESTING, size, chance.randrange(size)])
                struct.pack_into("<I", data, at, value)


XML_PIECES = (
    *(
        b"<kernel>",
        b"</kernel>",
        b"<arg ",
        b"/>",
        b"<!DOCTYPE a [",
        b"&a;",
        b"&#0;",
        b"]]>",
        b"<![CDATA[",
    ),
    *(
        b'id="-1"',
        b'offset="1e9"',
        b'size="0x"',
        b"\xff\xfe",
        b"<?xml version='1.1'?>",
        b"<!--",
        b"\0",
    ),
)


def xml(chance: Random, data: bytearray) -> None:
    """A piece of XML within the XML."""
    start = data.find(b"<project")
    end = data.find(b"</project>")
    if 0 <= start < end:
        at = chance.randrange(start, end)
        piece = chance.choice(XML_PIECES)
        # In place: the section keeps its size.
        data[at : at + len(piece)] = piece


def operation(chance: Random, data: bytearray) -> None:
    """A word where operations are: a code, a size or a register's address."""
    if len(data) >= 24:
        at = 16 + 4 * chance.randrange((len(data) - 16) // 4)
        registers = [0x1D000 + 4 * chance.randrange(150), 0x1D204, 0x1D214]
        codes = [*range(16), *range(0x80, 0x86)]
        struct.pack_into("<I", data, at, chance.choice([*codes, *registers, 12, 16, 24, 28, 48]))


COMMON = (overwrite, nudge, flip, cut, copy)
OF_XCLBINS: tuple[Callable[[Random, bytearray], None], ...] = (
    *COMMON,
    section_field,
    partition_field,
    partition_field,
    xml,
)
OF_STREAMS = (*COMMON, operation, operation)


def mutate(chance: Random) -> bytes:
    """A file, or a stream as bytes or text; some are undamaged."""
    is_xclbin = chance.random() < 0.5
    data = bytearray(chance.choice(XCLBINS if is_xclbin else STREAMS))
    for _ in range(chance.choice((0, 1, 1, 2, 3, 8))):
        chance.choice(OF_XCLBINS if is_xclbin else OF_STREAMS)(chance, data)
    # Mostly the file says its true length, or nothing behind the first check would be reached.
    if chance.random() < 0.9 and len(data) >= 312:
        at, form = (304, "<Q") if is_xclbin else (12, "<I")
        struct.pack_into(form, data, at, len(data))
    elif chance.random() < 0.9 and len(data) >= 16 and not is_xclbin:
        struct.pack_into("<I", data, 12, len(data))
    if not is_xclbin and chance.random() < 0.05:
        words = struct.unpack(f"<{len(data) // 4}I", data[: len(data) // 4 * 4])
        return "".join(f"{word:08X}\n" for word in words).encode()
    return bytes(data)


def check(data: bytes, folder: Path) -> str:
    """Read and print an input."""
    file, form = folder / "input", FORMATS[len(data) % 2]
    file.write_bytes(data)
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()):
        code = inspect([str(file)], form)
    out.getvalue().encode("ascii")
    if code:
        return "refused"
    if data.startswith(MAGIC):
        return "read"
    transaction = decode_transaction(data)
    with suppress(KernelError):
        transfers = decode_transfers(transaction)
        with suppress(KernelError):
            check_transfers(transfers, {0: 512, 1: 256, 2: 4096})
        return "interpreted"
    return "decoded"
