"""The instruction stream of our INT8 GEMM on one column of npu1.

C[m, n] int32 = A[m, k] int8 x B[k, n] int8. Arguments, order of data, register semantics and the
schedule: ``docs/instruction-streams.md``, section "Our INT8 GEMM".
"""

from __future__ import annotations

from whisper_npu.backends.npu.binaries.shim import (
    MAX_EXECUTIONS,
    MM2S,
    S2MM,
    BufferDescriptor,
    Channel,
    address_of,
)
from whisper_npu.backends.npu.binaries.transaction import TransactionBuilder

ARGUMENT_A, ARGUMENT_B, ARGUMENT_C = range(3)

# Two int32 at the end of the core tile's 64 KiB of data memory; the stack is at its start.
GEMM_RTP_OFFSET = 0xFFE0
GEMM_RTP_ADDRESS = address_of(0, 2, GEMM_RTP_OFFSET)
GEMM_RTP_K_TILES = GEMM_RTP_ADDRESS
GEMM_RTP_OUTPUT_TILES = GEMM_RTP_ADDRESS + 4

# Packet id under which tokens reach the controller; the array's configuration routes it there.
TOKEN_PACKET_ID = 15
_TOKEN_PACKET_SHIFT = 8
_TOKEN_PACKET_MASK = 0x1F00

# With two, the array works on one job while the data of the next arrive.
_JOBS_UNDER_WAY = 2
_BDS_PER_JOB = 3

_A = Channel(0, MM2S, 0)
_B = Channel(0, MM2S, 1)
_C = Channel(0, S2MM, 0)

TileSizes = tuple[int, int, int]


def gemm_int8_sizes(m: int, k: int, n: int) -> dict[int, int]:
    """Bytes of the arguments' buffers, as ``check_transfers`` takes them."""
    return {ARGUMENT_A: m * k, ARGUMENT_B: k * n, ARGUMENT_C: 4 * m * n}


def gemm_int8_moved(m: int, k: int, n: int, tile: TileSizes) -> dict[int, int]:
    """Bytes that one launch moves: A once per column of tiles, B once per row of tiles, C once."""
    tm, _, tn = tile
    return {ARGUMENT_A: m * k * (n // tn), ARGUMENT_B: k * n * (m // tm), ARGUMENT_C: 4 * m * n}


def gemm_int8_stream(m: int, k: int, n: int, tile: TileSizes) -> bytes:
    """The stream for one launch, ``tile`` being (tm, tk, tn).

    Raises ValueError if m, k, n are not multiples of the tile, or if a register field cannot hold
    what the shape needs; the message names the field.
    """
    tm, tk, tn = tile
    _check(m, k, n, tile)
    builder = TransactionBuilder(columns=1)
    builder.write32(GEMM_RTP_K_TILES, k // tk)
    builder.write32(GEMM_RTP_OUTPUT_TILES, m // tm * (n // tn))
    builder.mask_write(_C.control, TOKEN_PACKET_ID << _TOKEN_PACKET_SHIFT, _TOKEN_PACKET_MASK)
    jobs = [
        (row, column, min(MAX_EXECUTIONS * tn, n - column))
        for row in range(0, m, tm)
        for column in range(0, n, MAX_EXECUTIONS * tn)
    ]
    for i, (row, column, width) in enumerate(jobs):
        if i >= _JOBS_UNDER_WAY:
            builder.sync(_C)
        c, a, b = (i % _JOBS_UNDER_WAY * _BDS_PER_JOB + bd for bd in range(_BDS_PER_JOB))
        builder.write_bd(0, c, _tiles(tm, tn, n, width // tn), ARGUMENT_C, 4 * (row * n + column))
        builder.write_bd(0, a, _tiles(tm, tk // 4, k // 4, k // tk), ARGUMENT_A, row * k)
        builder.write_bd(0, b, BufferDescriptor(width * k // 4), ARGUMENT_B, column * k)
        builder.push(_C, c, token=True)
        builder.push(_A, a, executions=width // tn)
        builder.push(_B, b)
    for _ in range(min(_JOBS_UNDER_WAY, len(jobs))):
        builder.sync(_C)
    return builder.build()


def _tiles(rows: int, words: int, pitch: int, count: int) -> BufferDescriptor:
    """``count`` tiles side by side, each ``rows`` x ``words``, in rows of ``pitch`` words."""
    return BufferDescriptor(rows * words * count, (words, rows), (1, pitch, words))


def _check(m: int, k: int, n: int, tile: TileSizes) -> None:
    names = zip(("m", "k", "n"), (m, k, n), tile, strict=True)
    for name, size, step in names:
        if step < 1 or size < 1 or size % step:
            raise ValueError(f"{name} = {size} is not a multiple of the tile's {step}")
    # DMA counts in words of 4 bytes; C's are one word each.
    for name, step in (("tk", tile[1]), ("tn", tile[2])):
        if step % 4:
            raise ValueError(f"{name} = {step} is not a multiple of 4")
    # mlir-aie's streams never go beyond this either.
    if max(gemm_int8_sizes(m, k, n).values()) >> 32:
        raise ValueError(f"a buffer of {m} x {k} x {n} is beyond the 32 bits of a patch's offset")
