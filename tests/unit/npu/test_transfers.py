from __future__ import annotations

import struct
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.npu.streams import pack, seed_stream, short_stream, with_operations
from whisper_npu.backends.npu.binaries.shim import (
    MM2S,
    S2MM,
    BufferDescriptor,
    Channel,
    address_of,
    bd_address,
)
from whisper_npu.backends.npu.binaries.transaction import (
    TransactionBuilder,
    TransactionError,
    decode_transaction,
)
from whisper_npu.backends.npu.binaries.transfers import Transfer, check_transfers, decode_transfers
from whisper_npu.backends.npu.families.gemm_stream import gemm_int8_stream
from whisper_npu.errors import KernelError

SOURCE, OUTPUT = Channel(0, MM2S, 0), Channel(0, S2MM, 0)


def transfers(stream: bytes | TransactionBuilder) -> tuple[Transfer, ...]:
    data = stream if isinstance(stream, bytes) else stream.build()
    return decode_transfers(decode_transaction(data), "x")


@pytest.mark.parametrize("stream", [seed_stream(128, 64), short_stream(128, 64)])
def test_the_streams_of_the_first_kernels(stream: bytes) -> None:
    found = transfers(stream)
    common: dict[str, Any] = {
        "column": 0,
        "channel": 0,
        "byte_offset": 0,
        "strides": (1, 1, 1),
        "iteration_size": 1,
        "iteration_stride": 1,
        "executions": 1,
        "first": 0,
    }
    assert found == (
        Transfer(
            offset=found[0].offset,
            direction="MM2S",
            bd=1,
            argument=0,
            shape=(128, 1, 1),
            bytes_per_execution=512,
            last=512,
            token=False,
            awaited=False,
            **common,
        ),
        Transfer(
            offset=found[1].offset,
            direction="S2MM",
            bd=0,
            argument=1,
            shape=(64, 1, 1),
            bytes_per_execution=256,
            last=256,
            token=True,
            awaited=True,
            **common,
        ),
    )
    check_transfers(found, {0: 512, 1: 256})


def test_four_columns_of_one_stream() -> None:
    # As in the multi-column attention: inputs 0 to 3, outputs 4 to 7, columns one after another.
    builder = TransactionBuilder(columns=4)
    for column in range(4):
        builder.write_bd(column, 1, BufferDescriptor(0xC00), column, 0)
        builder.push(Channel(column, MM2S, 0), 1)
        builder.write_bd(column, 0, BufferDescriptor(0x400), 4 + column, 0)
        builder.push(Channel(column, S2MM, 0), 0, token=True)
        builder.sync(Channel(column, S2MM, 0))
    found = transfers(builder)
    assert [(t.column, t.direction, t.argument, t.total_bytes) for t in found] == [
        row
        for column in range(4)
        for row in ((column, "MM2S", column, 12288), (column, "S2MM", 4 + column, 4096))
    ]
    check_transfers(found, dict.fromkeys(range(4), 12288) | dict.fromkeys(range(4, 8), 4096))


def test_repeated_executions_that_move_on() -> None:
    builder = TransactionBuilder(1)
    descriptor = BufferDescriptor(10, iteration_size=4, iteration_stride=100)
    builder.write_bd(0, 2, descriptor, 0, 8)
    builder.push(SOURCE, 2, executions=3)
    builder.push(SOURCE, 2, executions=2)
    builder.push(SOURCE, 2, executions=9)
    # Iterations 0, 1, 2; then 3 and, around, 0; then all four.
    assert [(t.first, t.last, t.total_bytes) for t in transfers(builder)] == [
        (8, 8 + 800 + 40, 120),
        (8, 8 + 1200 + 40, 80),
        (8, 8 + 1200 + 40, 360),
    ]


def test_repeated_executions_that_do_not() -> None:
    builder = TransactionBuilder(1)
    builder.write_bd(0, 2, BufferDescriptor(10), 0, 8)
    builder.push(SOURCE, 2, executions=256)
    (found,) = transfers(builder)
    assert (found.first, found.last, found.total_bytes) == (8, 48, 10240)


@settings(deadline=None)
@given(st.integers(0, 63), st.integers(1, 64), st.lists(st.integers(1, 256), max_size=3))
def test_iterations(current: int, size: int, pushes: list[int]) -> None:
    builder = TransactionBuilder(1)
    builder.write_bd(0, 0, BufferDescriptor(1, (0, 0), (1, 1, 1), size, 10, current), 0, 0)
    for executions in pushes:
        builder.push(SOURCE, 0, executions)
    for executions, found in zip(pushes, transfers(builder), strict=True):
        steps = []
        for _ in range(executions):
            steps.append(current)
            current = (current + 1) % size
        assert (found.first, found.last) == (40 * min(steps), 40 * max(steps) + 4)


def test_a_chain_of_descriptors() -> None:
    builder = TransactionBuilder(1)
    builder.write_bd(0, 3, BufferDescriptor(10, next_bd=5), 0, 0)
    builder.write_bd(0, 5, BufferDescriptor(20), 1, 4)
    builder.push(OUTPUT, 3, token=True)
    builder.sync(OUTPUT)
    found = transfers(builder)
    assert [(t.bd, t.argument, t.total_bytes, t.awaited) for t in found] == [
        (3, 0, 40, True),
        (5, 1, 80, True),
    ]
    assert found[0].offset == found[1].offset


def test_registers_written_in_parts() -> None:
    builder = TransactionBuilder(1)
    builder.write_bd(0, 0, BufferDescriptor(10), 0, 0)
    builder.write32(bd_address(0, 0), 0x4C)
    builder.mask_write(bd_address(0, 0), 0xFFFFFF03, 0x0000000F)
    builder.push(SOURCE, 0)
    # Length 0x4C with its lowest four bits replaced by 3.
    assert [t.total_bytes for t in transfers(builder)] == [4 * 0x43]


def test_writes_inside_of_the_array_are_no_transfers() -> None:
    builder = TransactionBuilder(1)
    for row in (1, 2):
        builder.write32(address_of(0, row, 0x1D204), 0)
    assert transfers(builder) == ()


def test_tokens_are_counted() -> None:
    builder = TransactionBuilder(1)
    builder.write_bd(0, 0, BufferDescriptor(1), 0, 0)
    builder.push(OUTPUT, 0, token=True)
    builder.push(OUTPUT, 0)
    builder.push(OUTPUT, 0, token=True)
    builder.push(OUTPUT, 0, token=True)
    builder.sync(OUTPUT)
    builder.sync(OUTPUT)
    found = transfers(builder)
    assert [(t.token, t.awaited) for t in found] == [
        (True, True),
        (False, False),
        (True, True),
        (True, False),
    ]


def test_a_sync_of_several_columns() -> None:
    builder = TransactionBuilder(2)
    for column in range(2):
        builder.write_bd(column, 0, BufferDescriptor(1), column, 0)
        builder.push(Channel(column, S2MM, 0), 0, token=True)
    sync = pack(0x80, 16, 0, 0x00020100)
    stream = with_operations(builder.build()[16:], sync)
    stream = stream[:8] + pack(7) + stream[12:]
    assert [t.awaited for t in transfers(stream)] == [True, True]


def fails(stream: bytes | TransactionBuilder, reason: str) -> None:
    with pytest.raises(TransactionError, match=reason):
        transfers(stream)


def test_pushes_of_which_nothing_can_be_said() -> None:
    builder = TransactionBuilder(1)
    builder.push(SOURCE, 4)
    fails(builder, "x: operation at byte 16: BD 4 of column 0 is used, but never set")
    builder = TransactionBuilder(1)
    builder.block_write(bd_address(0, 4), BufferDescriptor(1).words()[1:])
    builder.patch_address(bd_address(0, 4) + 4, 0, 0)
    builder.push(SOURCE, 4)
    fails(builder, "BD 4 of column 0 is used, but never set")
    builder = TransactionBuilder(1)
    builder.block_write(bd_address(0, 4), BufferDescriptor(1).words())
    builder.push(SOURCE, 4)
    fails(builder, "BD 4 of column 0 has no argument's address")
    builder = TransactionBuilder(1)
    builder.write_bd(0, 4, BufferDescriptor(1), 0, 0)
    builder.write32(bd_address(0, 4) + 4, 0)
    builder.push(SOURCE, 4)
    fails(builder, "has no argument's address")
    for descriptor, reason in (
        (BufferDescriptor(0), "has length 0"),
        (BufferDescriptor(1, valid=False), "is not valid"),
        (BufferDescriptor(1, next_bd=4), "the chain from BD 4 comes back to 4"),
        (BufferDescriptor(1, next_bd=5), "BD 5 of column 0 is used, but never set"),
    ):
        builder = TransactionBuilder(1)
        builder.write_bd(0, 4, descriptor, 0, 0)
        builder.push(SOURCE, 4)
        fails(builder, reason)


def test_a_pdi_takes_the_descriptors_along() -> None:
    builder = TransactionBuilder(1)
    builder.write_bd(0, 0, BufferDescriptor(1), 0, 0)
    push = pack(0, 0, 0x1D214, 0, 0, 24)
    stream = with_operations(builder.build()[16:], pack(8, 0, 0, 0), push)
    fails(stream[:8] + pack(4) + stream[12:], "BD 0 of column 0 is used, but never set")


def test_patches_of_something_else() -> None:
    for address in (0x1D000, 0x1D008, 0x1D204, address_of(0, 1, 0x1D004)):
        builder = TransactionBuilder(1)
        builder.patch_address(address, 0, 0)
        fails(builder, "is no descriptor's address")
    builder = TransactionBuilder(1)
    builder.patch_address(0x1D004, 0, 6)
    fails(builder, "offset 6 is not a multiple of 4")


def test_waiting_for_nothing() -> None:
    builder = TransactionBuilder(1)
    builder.write_bd(0, 0, BufferDescriptor(1), 0, 0)
    builder.push(OUTPUT, 0)
    builder.sync(OUTPUT)
    fails(builder, "no push sends one: the launch would not end")
    merge = pack(0x84, 12, 1)
    fails(with_operations(merge), "MERGE_SYNC")


def test_streams_of_another_device() -> None:
    stream = seed_stream(128, 64)
    fails(stream[:2] + b"\4" + stream[3:], "made for npu2, not for npu1")


def test_too_many_transfers() -> None:
    builder = TransactionBuilder(1)
    for bd in range(16):
        chain = None if bd == 15 else bd + 1
        builder.write_bd(0, bd, BufferDescriptor(1, next_bd=chain), 0, 0)
    for _ in range(4097):
        builder.push(SOURCE, 0)
    fails(builder, "more than 65536 transfers")


def check(stream: bytes, sizes: dict[int, int], moved: dict[int, int] | None, reason: str) -> None:
    with pytest.raises(KernelError, match=reason) as caught:
        check_transfers(transfers(stream), sizes, moved, "k.bin")
    assert str(caught.value).startswith("k.bin: ")


def test_what_breaks_a_contract() -> None:
    seed = seed_stream(128, 64)
    check(seed, {0: 512, 1: 255}, None, r"bytes 0 to 255 of argument 1, which has 255")
    check(seed, {0: 511, 1: 256}, None, r"bytes 0 to 511 of argument 0, which has 511")
    check(seed, {0: 512, 1: 257}, None, "256 bytes of argument 1 move, the contract says 257")
    check(seed, {0: 512}, None, "uses argument 1, which the contract does not have")
    check(seed, {0: 512, 1: 256, 2: 4}, None, "0 bytes of argument 2 move, the contract says 4")
    check(seed, {0: 512, 1: 256}, {0: 512}, "256 bytes of argument 1 move, the contract says 0")
    unwaited = seed[:-16][:8] + pack(7, 284) + seed[16:-16]
    check(unwaited, {0: 512, 1: 256}, None, "writes argument 1 and nothing waits for that")


@settings(deadline=None)
@given(
    st.sampled_from([seed_stream(128, 64), gemm_int8_stream(32, 32, 16, (16, 16, 8))]),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 31)), min_size=1, max_size=4),
)
def test_whatever_happens_to_a_stream_only_the_error_comes_out(
    data: bytes, flips: list[tuple[float, int]]
) -> None:
    changed = bytearray(data)
    for where, bit in flips:
        at = 16 + 4 * int(where * (len(changed) // 4 - 5))
        word = struct.unpack_from("<I", changed, at)[0]
        struct.pack_into("<I", changed, at, word ^ 1 << bit)
    with suppress(KernelError):
        check_transfers(transfers(bytes(changed)), {0: 512, 1: 512, 2: 2048})
