from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_npu.backends.npu.binaries.shim import (
    MM2S,
    S2MM,
    ArrayTile,
    BufferDescriptor,
    Channel,
    address_of,
    bd_address,
    bd_word_at,
    parse_push,
    push_word,
    queue_at,
)


def test_addresses() -> None:
    assert address_of(3, 2, 0x1D204) == 0x0621D204
    assert ArrayTile.of(0x0621D204) == ArrayTile(3, 2, 0x1D204)
    assert bd_address(1, 3) == 0x0201D060
    assert bd_word_at(0x1D1FC) == (15, 7)
    assert bd_word_at(0x1D200) is None
    assert bd_word_at(0x1CFFC) is None


@pytest.mark.parametrize(
    ("direction", "number", "queue"),
    [(S2MM, 0, 0x1D204), (S2MM, 1, 0x1D20C), (MM2S, 0, 0x1D214), (MM2S, 1, 0x1D21C)],
)
def test_queues(direction: int, number: int, queue: int) -> None:
    channel = Channel(2, direction, number)
    assert channel.queue == address_of(2, 0, queue)
    assert channel.control == channel.queue - 4
    assert queue_at(ArrayTile(2, 0, queue)) == channel
    assert queue_at(ArrayTile(2, 0, queue - 4)) is None


def test_no_queues_beyond_them() -> None:
    assert queue_at(ArrayTile(0, 0, 0x1D224)) is None
    assert queue_at(ArrayTile(0, 0, 0x1D1FC)) is None


def test_pushes() -> None:
    assert push_word(5, 1, False) == 5
    assert push_word(15, 256, True) == 0x80FF000F
    assert parse_push(0x80FF000F) == (15, 256, True)
    for bd, executions, what in ((16, 1, "first BD"), (0, 257, "executions"), (0, 0, "executions")):
        with pytest.raises(ValueError, match=what):
            push_word(bd, executions, False)


def test_every_field_of_a_descriptor() -> None:
    descriptor = BufferDescriptor(
        length=0x12345678,
        sizes=(0x123, 0x234),
        strides=(0x54322, 0x65433, 0x76544),
        iteration_size=0x16,
        iteration_stride=0x87655,
        iteration_current=0x2A,
        next_bd=9,
    )
    words = [
        0x12345678,
        0,
        0,
        0x123 << 20 | 0x54321,
        2 << 30 | 0x234 << 20 | 0x65432,
        2 << 24 | 0x76543,
        0x2A << 26 | 0x15 << 20 | 0x87654,
        9 << 27 | 1 << 26 | 1 << 25,
    ]
    assert descriptor.words() == words
    assert BufferDescriptor.of(words) == descriptor


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"length": 1 << 32}, "length is 4294967296, 0 to 4294967295 fit into its 32 bits"),
        ({"sizes": (1024, 0)}, "d0 size is 1024, 0 to 1023"),
        ({"sizes": (0, 1024)}, "d1 size is 1024"),
        ({"strides": (0, 1, 1)}, "d0 stride - 1 is -1"),
        ({"strides": (1, (1 << 20) + 1, 1)}, "d1 stride - 1 is 1048576"),
        ({"strides": (1, 1, (1 << 20) + 1)}, "d2 stride - 1 is 1048576"),
        ({"iteration_size": 65}, "iteration size - 1 is 64"),
        ({"iteration_stride": 0}, "iteration stride - 1"),
        ({"iteration_current": 64}, "iteration current"),
        ({"next_bd": 16}, "next BD"),
    ],
)
def test_fields_that_are_too_small(changes: dict, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        BufferDescriptor(**{"length": 1, **changes}).words()


def places(descriptor: BufferDescriptor) -> list[int]:
    """The formula of the documentation, word by word."""
    (d0, d1), (s0, s1, s2) = descriptor.sizes, descriptor.strides
    found = []
    for i in range(descriptor.length):
        if not d0:
            found.append(i * s0)
        elif not d1:
            found.append(i % d0 * s0 + i // d0 * s1)
        else:
            found.append(i % d0 * s0 + i // d0 % d1 * s1 + i // (d0 * d1) * s2)
    return found


strides = st.integers(1, 40)


@settings(deadline=None)
@given(
    st.integers(1, 200),
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
    st.tuples(strides, strides, strides),
)
def test_reach_is_that_of_the_farthest_word(
    length: int, sizes: tuple[int, int], steps: tuple[int, int, int]
) -> None:
    descriptor = BufferDescriptor(length, sizes, steps)
    assert descriptor.reach() == max(places(descriptor)) + 1
    d0, d1, d2 = descriptor.shape
    assert d0 * d1 * (d2 - 1) < length <= d0 * d1 * d2
    assert d0 * (d1 - 1) < length
