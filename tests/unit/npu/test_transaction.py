from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.npu.streams import pack, seed_stream, short_stream, with_operations
from whisper_npu.backends.npu.binaries.shim import MM2S, S2MM, BufferDescriptor, Channel
from whisper_npu.backends.npu.binaries.transaction import (
    AddressPatch,
    BlockWrite,
    LoadPdi,
    MaskPoll,
    MaskWrite,
    Operation,
    Other,
    Sync,
    TransactionBuilder,
    TransactionError,
    Write32,
    decode_transaction,
    read_transaction,
)
from whisper_npu.backends.npu.families.gemm_stream import gemm_int8_stream

BD = (0, 0, 0, 0x80000000, 0x02000000, 0, 0x02000000)
SEED_OPERATIONS = (
    BlockWrite(16, 0x1D020, (128, *BD)),
    AddressPatch(64, 0x1D024, 0, 0),
    Write32(112, 0x1D214, 1),
    BlockWrite(136, 0x1D000, (64, *BD)),
    AddressPatch(184, 0x1D004, 1, 0),
    MaskWrite(232, 0x1D200, 0xF00, 0x1F00),
    Write32(260, 0x1D204, 0x80000000),
    Sync(284, 0, 0, 0, 0, 1, 1),
)


def without_offsets(operations: tuple[Operation, ...]) -> list[Operation]:
    return [replace(operation, offset=0) for operation in operations]


def test_the_streams_of_the_first_kernels() -> None:
    transaction = decode_transaction(seed_stream(128, 64))
    assert transaction.operations == SEED_OPERATIONS
    assert transaction.version == (0, 1)
    assert transaction.device == "npu1"
    assert (transaction.rows, transaction.columns, transaction.memory_rows) == (6, 4, 1)
    assert transaction.size == 300


def test_the_builder_writes_them_byte_for_byte() -> None:
    builder = TransactionBuilder(columns=4)
    output, source = Channel(0, S2MM, 0), Channel(0, MM2S, 0)
    builder.write_bd(0, 1, BufferDescriptor(128), argument=0, plus=0)
    builder.push(source, 1)
    builder.write_bd(0, 0, BufferDescriptor(64), argument=1, plus=0)
    builder.mask_write(output.control, 0xF00, 0x1F00)
    builder.push(output, 0, token=True)
    builder.sync(output)
    assert builder.build() == seed_stream(128, 64)


def test_the_short_version_says_the_same() -> None:
    transaction = decode_transaction(short_stream(128, 64))
    assert transaction.version == (1, 0)
    assert without_offsets(transaction.operations) == without_offsets(SEED_OPERATIONS)


def test_operations_without_effect_are_stepped_over() -> None:
    transaction = decode_transaction(
        with_operations(
            pack(5),  # NOOP
            pack(0x0206),  # PREEMPT
            pack(0x0309, 7),  # LOAD_PM_START
            pack(0x83, 12, 99),  # RECORD_TIMER
            pack(0, 0, 0x1D204, 0, 5, 24),
        )
    )
    assert transaction.operations == (
        Other(16, "NOOP", bytes(3)),
        Other(20, "PREEMPT", bytes((2, 0, 0))),
        Other(24, "LOAD_PM_START", bytes((3, 0, 0, 7, 0, 0, 0))),
        Other(32, "RECORD_TIMER", bytes((0, 0, 0, 12, 0, 0, 0, 99, 0, 0, 0))),
        Write32(44, 0x1D204, 5),
    )


def test_operations_of_any_version() -> None:
    load = pack(0x00070008, 100, 0x1000, 1)
    assert decode_transaction(with_operations(load)).operations == (
        LoadPdi(16, 7, 100, 0x1_0000_1000),
    )
    poll = pack(4, 0, 0x1D220, 0, 1, 3, 28)
    assert decode_transaction(with_operations(poll)).operations == (MaskPoll(16, 0x1D220, 1, 3),)
    short_poll = pack(7, 0x1D220, 1, 3)
    assert decode_transaction(with_operations(short_poll, version=0x06030001)).operations == (
        MaskPoll(16, 0x1D220, 1, 3),
    )


def test_aie_rt_pads_a_mask_write() -> None:
    padded = pack(3, 0, 0x1D200, 0, 0xF00, 0x1F00, 32, 0)
    after = pack(0, 0, 0x1D204, 0, 5, 24)
    assert decode_transaction(with_operations(padded, after)).operations == (
        MaskWrite(16, 0x1D200, 0xF00, 0x1F00),
        Write32(48, 0x1D204, 5),
    )


def test_every_field_of_a_sync() -> None:
    sync = bytes((0x80, 0, 0, 0, 16, 0, 0, 0, 1, 2, 3, 0, 0, 5, 4, 6))
    (operation,) = decode_transaction(with_operations(sync)).operations
    assert operation == Sync(16, column=3, row=2, direction=1, channel=6, columns=4, rows=5)


def test_addresses_and_offsets_of_64_bits() -> None:
    patch = pack(0x81, 48, 0, 0, 0, 0, 0x1D004, 1, 2, 0, 8, 3)
    (operation,) = decode_transaction(with_operations(patch)).operations
    assert operation == AddressPatch(16, 0x1_0001_D004, 2, 0x3_0000_0008)
    # The argument is one byte here; what is behind it is padding.
    short = pack(0x81, 24, 0x1D004, 0xAABBCC02, 8, 3)
    (operation,) = decode_transaction(with_operations(short, version=0x06030001)).operations
    assert operation == AddressPatch(16, 0x1D004, 2, 0x3_0000_0008)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_text_with_a_word_a_line(tmp_path: Path, newline: str) -> None:
    words = struct.unpack("<75I", seed_stream(128, 64))
    file = tmp_path / "insts.txt"
    file.write_bytes("".join(f"{word:08X}{newline}" for word in words).encode())
    assert read_transaction(file).operations == SEED_OPERATIONS


def fails(data: bytes, offset: int, reason: str) -> None:
    with pytest.raises(TransactionError) as caught:
        decode_transaction(data, "bad.bin")
    message = str(caught.value)
    assert message.startswith(f"bad.bin: byte {offset} (0x{offset:x}): ")
    assert reason in message
    assert caught.value.exit_code == 5


def test_bad_headers() -> None:
    fails(b"", 0, "the header of 16 bytes does not fit")
    fails(pack(0x06030200, 0, 0, 16), 0, "version 0.1 or 1.0, this 0.2")
    seed = seed_stream(128, 64)
    fails(seed + bytes(4), 12, "written with 300 bytes and has 304")
    fails(seed[:8] + pack(1 << 30) + seed[12:], 8, "1073741824 operations, at most")
    fails(seed[:8] + pack(9) + seed[12:], 8, "8 operations, the header says 9")
    fails(seed[:8] + pack(7) + seed[12:], 284, "more than the 7 operations")


def test_bad_operations() -> None:
    fails(with_operations(pack(0x77)), 16, "operation 0x77 is not known")
    # BLOCKSET is in no stream: aie-rt writes it out.
    fails(with_operations(pack(2, 0, 0, 16)), 16, "operation 0x02 is not known")
    fails(with_operations(pack(0, 0, 0x1D204, 0, 5)), 16, "an operation of 24 bytes does not fit")
    fails(with_operations(pack(0, 0, 0x1D204, 0, 5, 20)), 36, "an operation of 20 bytes")
    fails(with_operations(pack(0, 0, 0x1D204, 0, 5, 28)), 16, "an operation of 28 bytes")
    fails(with_operations(pack(1, 0, 0x1D204, 18, 0, 0)), 28, "an operation of 18 bytes")
    fails(with_operations(pack(1, 0, 0x1D204, 1 << 30)), 16, "an operation of 1073741824 bytes")
    fails(with_operations(pack(0x80, 0)), 20, "an operation of 0 bytes")
    fails(with_operations(pack(0x83, 4)), 20, "an operation of 4 bytes")


def test_a_file_too_large(tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        file.truncate(100 << 20)
    with pytest.raises(TransactionError, match=r"large\.bin: has more than the \d+ bytes"):
        read_transaction(large)
    with pytest.raises(TransactionError, match="at most"):
        decode_transaction(bytes((16 << 20) + 1))


def words(limit: int = 32) -> st.SearchStrategy[int]:
    return st.integers(0, (1 << limit) - 1)


channels = st.builds(Channel, words(7), st.integers(0, 1), st.integers(0, 1))
calls = st.one_of(
    st.tuples(st.just("write32"), st.tuples(words(64), words())),
    st.tuples(st.just("mask_write"), st.tuples(words(64), words(), words())),
    st.tuples(st.just("block_write"), st.tuples(words(), st.lists(words(), max_size=9))),
    st.tuples(st.just("patch_address"), st.tuples(words(64), words(64), words(64))),
    st.tuples(st.just("sync"), st.tuples(channels)),
)


@settings(deadline=None)
@given(st.lists(calls), st.integers(1, 255))
def test_what_is_written_is_read(written: list[tuple[str, tuple]], columns: int) -> None:
    builder = TransactionBuilder(columns)
    for method, arguments in written:
        getattr(builder, method)(*arguments)
    data = builder.build()
    transaction = decode_transaction(data)
    assert transaction.columns == columns
    expected: list[Operation] = []
    for method, values in written:
        if method == "write32":
            expected.append(Write32(0, *values))
        elif method == "mask_write":
            expected.append(MaskWrite(0, *values))
        elif method == "block_write":
            expected.append(BlockWrite(0, values[0], tuple(values[1])))
        elif method == "patch_address":
            expected.append(AddressPatch(0, *values))
        else:
            (channel,) = values
            expected.append(Sync(0, channel.column, 0, channel.direction, channel.number, 1, 1))
    assert without_offsets(transaction.operations) == expected
    offsets = [operation.offset for operation in transaction.operations]
    assert offsets == sorted(offsets)


@settings(deadline=None)
@given(
    st.sampled_from(
        [seed_stream(128, 64), short_stream(200, 20), gemm_int8_stream(32, 32, 16, (16, 16, 8))]
    ),
    st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=4)), max_size=4),
)
def test_whatever_happens_to_a_stream_only_the_error_comes_out(
    data: bytes, patches: list[tuple[float, bytes]]
) -> None:
    changed = bytearray(data)
    for where, patch in patches:
        at = int(where * len(changed))
        changed[at : at + len(patch)] = patch
    struct.pack_into("<I", changed, 12, len(changed))
    with suppress(TransactionError):
        decode_transaction(bytes(changed), "x")
