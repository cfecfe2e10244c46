from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from whisper_npu.backends.npu.binaries.shim import (
    MM2S,
    S2MM,
    ArrayTile,
    Channel,
    bd_word_at,
    queue_at,
)
from whisper_npu.backends.npu.binaries.transaction import (
    BlockWrite,
    MaskWrite,
    Sync,
    Transaction,
    Write32,
    decode_transaction,
)
from whisper_npu.backends.npu.binaries.transfers import Transfer, check_transfers, decode_transfers
from whisper_npu.backends.npu.families.gemm_stream import (
    GEMM_RTP_K_TILES,
    GEMM_RTP_OUTPUT_TILES,
    gemm_int8_moved,
    gemm_int8_sizes,
    gemm_int8_stream,
)

SHAPES = [
    # m, k, n, tile
    (16, 16, 8, (16, 16, 8)),
    (48, 32, 16, (16, 16, 8)),
    (4, 8, 12, (2, 8, 4)),
    (8, 4, 8 * 300, (8, 4, 8)),  # 300 output tiles a strip: two jobs
    (8, 4, 4 * 768, (4, 4, 4)),
    (64, 256, 96, (32, 64, 32)),
]


def parameter(transaction: Transaction, address: int) -> int:
    (value,) = (
        operation.value
        for operation in transaction.operations
        if isinstance(operation, Write32) and operation.address == address
    )
    return value


def places(transfer: Transfer) -> np.ndarray:
    """Byte of every word of one execution."""
    d0, d1, d2 = (np.arange(size) for size in transfer.shape)
    s0, s1, s2 = transfer.strides
    words = d2[:, None, None] * s2 + d1[:, None] * s1 + d0 * s0
    assert 4 * words.size == transfer.bytes_per_execution
    return transfer.byte_offset + 4 * words.ravel()


def launch(stream: bytes, a: np.ndarray, b: np.ndarray, c_words: int, tile: tuple) -> np.ndarray:
    """Carry a stream out: DMA by the transfers, and a core that multiplies tile by tile."""
    tm, tk, tn = tile
    transaction = decode_transaction(stream)
    found = decode_transfers(transaction)
    words = [a.ravel().view(np.int32), b.ravel().view(np.int32)]
    streams = []
    for argument in (0, 1):
        parts = [
            words[argument][places(t) // 4]
            for t in found
            if (t.direction, t.channel) == ("MM2S", argument)
            for _ in range(t.executions)
        ]
        streams.append(np.concatenate(parts).view(np.int8))
    k_tiles = parameter(transaction, GEMM_RTP_K_TILES)
    c_tiles = parameter(transaction, GEMM_RTP_OUTPUT_TILES)
    a_tiles = streams[0].reshape(c_tiles, k_tiles, tm, tk).astype(np.int32)
    b_tiles = streams[1].reshape(c_tiles, k_tiles, tk, tn).astype(np.int32)
    results = np.einsum("ckij,ckjl->cil", a_tiles, b_tiles).ravel()
    c = np.full(c_words, 0x5A5A5A5A, np.int32)
    for transfer in found:
        if transfer.direction == "S2MM":
            at = places(transfer) // 4
            c[at], results = results[: at.size], results[at.size :]
    assert not results.size
    return c


@pytest.mark.parametrize(("m", "k", "n", "tile"), SHAPES)
def test_the_product(m: int, k: int, n: int, tile: tuple[int, int, int]) -> None:
    random = np.random.RandomState(m + n)
    a = random.randint(-128, 128, (m, k)).astype(np.int8)
    b = random.randint(-128, 128, (k, n)).astype(np.int8)
    _, tk, tn = tile
    packed = np.ascontiguousarray(b.reshape(k // tk, tk, n // tn, tn).transpose(2, 0, 1, 3))
    c = launch(gemm_int8_stream(m, k, n, tile), a, packed, m * n, tile)
    np.testing.assert_array_equal(c.reshape(m, n), a.astype(np.int32) @ b.astype(np.int32))


@pytest.mark.parametrize(("m", "k", "n", "tile"), SHAPES)
def test_the_contract(m: int, k: int, n: int, tile: tuple[int, int, int]) -> None:
    found = decode_transfers(decode_transaction(gemm_int8_stream(m, k, n, tile)))
    check_transfers(found, gemm_int8_sizes(m, k, n), gemm_int8_moved(m, k, n, tile))
    outputs = np.concatenate([places(t) for t in found if t.direction == "S2MM"])
    np.testing.assert_array_equal(np.sort(outputs), np.arange(0, 4 * m * n, 4))


@pytest.mark.parametrize(("m", "k", "n", "tile"), SHAPES)
def test_nothing_in_use_is_written(m: int, k: int, n: int, tile: tuple[int, int, int]) -> None:
    """No descriptor of a task under way is set, no queue holds more than four tasks."""
    output = Channel(0, S2MM, 0)
    jobs: list[set[int]] = []  # descriptors of the jobs under way; a push of C begins one
    queued: Counter[Channel] = Counter()
    for operation in decode_transaction(gemm_int8_stream(m, k, n, tile)).operations:
        if isinstance(operation, Sync):
            assert (operation.column, operation.row, operation.direction) == (0, 0, S2MM)
            assert (operation.columns, operation.rows, operation.channel) == (1, 1, 0)
            jobs.pop(0)
            queued -= Counter((output, Channel(0, MM2S, 0), Channel(0, MM2S, 1)))
        elif isinstance(operation, BlockWrite):
            place = bd_word_at(ArrayTile.of(operation.address).register)
            assert place is not None
            assert not any(place[0] in job for job in jobs)
        elif isinstance(operation, Write32):
            channel = queue_at(ArrayTile.of(operation.address))
            if channel and ArrayTile.of(operation.address).row == 0:
                queued[channel] += 1
                assert queued[channel] <= 4
                if channel == output:
                    jobs.append(set())
                jobs[-1].add(operation.value & 0xF)
    assert not jobs
    assert not +queued


def test_parameters_come_first_and_tokens_are_routed() -> None:
    operations = decode_transaction(gemm_int8_stream(48, 32, 16, (16, 16, 8))).operations
    # Column 0, row 2, the last 32 bytes of data memory: 2 tiles along k; 3 x 2 output tiles.
    assert operations[:3] == (
        Write32(16, 0x0020FFE0, 2),
        Write32(40, 0x0020FFE4, 6),
        MaskWrite(64, 0x1D200, 0xF00, 0x1F00),
    )


def test_a_repeat_has_eight_bits() -> None:
    found = decode_transfers(decode_transaction(gemm_int8_stream(8, 4, 2400, (8, 4, 8))))
    assert [t.executions for t in found if (t.direction, t.channel) == ("MM2S", 0)] == [256, 44]
    assert [t.total_bytes for t in found if t.channel == 1] == [4 * 2048, 4 * 352]


@pytest.mark.parametrize(
    ("m", "k", "n", "tile", "reason"),
    [
        (17, 16, 16, (16, 16, 16), "m = 17 is not a multiple of the tile's 16"),
        (16, 24, 16, (16, 16, 16), "k = 24"),
        (16, 16, 8, (16, 16, 16), "n = 8"),
        (16, 16, 0, (16, 16, 16), "n = 0"),
        (16, 16, 16, (16, 16, 0), "n = 16 is not a multiple of the tile's 0"),
        (16, 18, 16, (16, 18, 16), "tk = 18 is not a multiple of 4"),
        (16, 16, 18, (16, 16, 18), "tn = 18 is not a multiple of 4"),
        (16, 16, 1024, (16, 16, 1024), "d0 size is 1024"),
        (16, 4096, 16, (16, 4096, 16), "d0 size is 1024"),
        (1024, 16, 16, (1024, 16, 16), "d1 size is 1024"),
        (4, 4, 1 << 21, (4, 4, 4), "d1 stride - 1 is 2097151"),
        (4, 1 << 23, 4, (4, 4, 4), "d1 stride - 1 is 2097151"),
        (1 << 20, 4, 1024, (4, 4, 4), "beyond the 32 bits of a patch's offset"),
    ],
)
def test_shapes_that_no_register_holds(
    m: int, k: int, n: int, tile: tuple[int, int, int], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        gemm_int8_stream(m, k, n, tile)
