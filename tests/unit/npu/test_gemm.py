"""Products on the software device against int64, for shapes that no tile divides."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.npu.gemm_kernels import gemm_entry
from whisper_npu.backends.npu.device import BufferRefused, DeviceError, LaunchFailed, LaunchTimedOut
from whisper_npu.backends.npu.families.gemm import Gemm, gemm_shape
from whisper_npu.backends.npu.families.packing import (
    GemmTile,
    pack_gemm_weights,
    unpack_gemm_weights,
)
from whisper_npu.backends.npu.software import FaultHook, SoftwareDevice, no_fault
from whisper_npu.ops.arrays import I8

sizes = st.integers(1, 200)
tiles = st.builds(
    GemmTile, st.sampled_from([16, 64]), st.sampled_from([8, 64]), st.sampled_from([8, 64])
)


TILE = GemmTile(16, 64, 64)


def gemm(tile: GemmTile = TILE, fault: FaultHook = no_fault) -> Gemm:
    return Gemm(SoftwareDevice(fault).open(gemm_entry(tile=tile._asdict())))


def matrices(m: int, k: int, n: int, seed: int = 0) -> tuple[I8, I8]:
    rng = np.random.default_rng(seed)
    x, w = rng.integers(-128, 128, (m, k), np.int8), rng.integers(-128, 128, (n, k), np.int8)
    return x, w


def exact(x: I8, w: I8) -> np.ndarray:
    return x.astype(np.int64) @ w.astype(np.int64).T


def product(own: Gemm, x: I8, w: I8, name: str = "w") -> np.ndarray:
    shape = gemm_shape(own.tile, *x.shape, len(w))
    own.load_weights(name, w)
    own.prepare(shape)
    return own.product(x, name, shape).copy()


@given(sizes, sizes, sizes, tiles, st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_products_are_exact(m: int, k: int, n: int, tile: GemmTile, seed: int) -> None:
    x, w = matrices(m, k, n, seed)
    found = product(gemm(tile), x, w)
    assert found.dtype == np.int32
    assert np.array_equal(found, exact(x, w))


@pytest.mark.parametrize("k", [1024, 1025, 2 * 1024 + 1, 5120])
def test_the_largest_sums(k: int) -> None:
    """Beyond 2**24, where float32 has no odd integers."""
    x, w = np.full((2, k), -128, np.int8), np.full((3, k), -128, np.int8)
    x[1, 0] = w[2, 0] = 1
    found = product(gemm(), x, w)
    assert np.array_equal(found, exact(x, w))
    assert found[0, 0] == 2**14 * k
    assert found[1, 2] == 2**14 * (k - 1) + 1


@given(sizes, sizes, tiles, st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_packed_weights_unpack(n: int, k: int, tile: GemmTile, seed: int) -> None:
    _, w = matrices(1, k, n, seed)
    packed = pack_gemm_weights(w, tile)
    assert packed.shape == (-(-n // tile.n), -(-k // tile.k), tile.k * tile.n)
    assert np.array_equal(unpack_gemm_weights(packed, n, k, tile), w)
    whole = unpack_gemm_weights(packed, packed.shape[0] * tile.n, packed.shape[1] * tile.k, tile)
    assert not whole[n:].any()
    assert not whole[:, k:].any()


@given(sizes, sizes, sizes, tiles)
@settings(max_examples=40, deadline=None)
def test_padding_is_the_least(m: int, k: int, n: int, tile: GemmTile) -> None:
    shape = gemm_shape(tile, m, k, n)
    assert (shape.m, shape.k, shape.n) == (m, k, n)
    for size, padded, step in zip((m, k, n), shape.padded, tile, strict=True):
        assert padded % step == 0
        assert 0 <= padded - size < step
    pm, pk, pn = shape.padded
    assert (shape.bytes_in, shape.resident_bytes, shape.bytes_out) == (
        pm * pk,
        pk * pn,
        4 * pm * pn,
    )


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 100)), min_size=2, max_size=6))
@settings(max_examples=20, deadline=None)
def test_buffers_are_shared_without_mixing(shapes: list[tuple[int, int]]) -> None:
    """Products of other m and k over the same buffers leave nothing behind."""
    own = gemm()
    for i, (m, k) in enumerate(shapes):
        x, w = matrices(m, k, 70, i)
        assert np.array_equal(product(own, x, w, f"w{i}"), exact(x, w))


class Counting:
    """Counts what is made; fails the nth action of a kind."""

    def __init__(self, action: str = "", nth: int = 0, error: DeviceError | None = None) -> None:
        self.actions: list[str] = []
        self._fails, self._error = (action, nth), error

    def __call__(self, action: str, kernel: str, count: int) -> DeviceError | None:
        self.actions.append(action)
        return self._error if (action, self.actions.count(action)) == self._fails else None


def test_products_of_one_shape_share_buffers_and_program() -> None:
    counting = Counting()
    own = gemm(fault=counting)
    for i, m in enumerate((1, 7, 16)):
        x, w = matrices(m, 40, 70, i)
        product(own, x, w, f"w{i}")
    assert counting.actions.count("buffer") == 3 + 2
    assert counting.actions.count("program") == 1


def test_what_was_prepared_is_not_made_while_running() -> None:
    counting = Counting()
    own = gemm(fault=counting)
    x, w = matrices(5, 40, 70)
    shape = gemm_shape(own.tile, 5, 40, 70)
    own.load_weights("w", w)
    own.prepare(shape)
    made = len(counting.actions)
    for _ in range(3):
        own.product(x, "w", shape)
    assert counting.actions[made:] == ["launch"] * 3


@pytest.mark.parametrize("error", [LaunchFailed("no"), LaunchTimedOut("no")])
def test_buffers_of_a_failed_launch_are_not_used_again(error: DeviceError) -> None:
    """Nor given back: a launch that has not ended may still write to them."""
    counting = Counting("launch", 1, error)
    own = gemm(fault=counting)
    x, w = matrices(5, 40, 70)
    shape = gemm_shape(own.tile, 5, 40, 70)
    own.load_weights("w", w)
    own.prepare(shape)
    first = own._shared(shape)
    with pytest.raises(type(error)):
        own.product(x, "w", shape)
    assert own._abandoned == [first]
    # The kernel writes at last.
    found = own.product(x, "w", shape)
    first[1].array[:] = 7
    assert np.array_equal(found, exact(x, w))


def test_a_refused_buffer_is_asked_for_again() -> None:
    own = gemm(fault=Counting("buffer", 1, BufferRefused("full")))
    x, w = matrices(5, 40, 70)
    with pytest.raises(BufferRefused, match="full"):
        own.load_weights("w", w)
    assert not own.has_weights("w")
    assert np.array_equal(product(own, x, w), exact(x, w))
    assert own.has_weights("w")


def test_rows_that_were_not_synchronised_are_not_seen() -> None:
    """The software device has memory of its own: a missing synchronisation cannot go unnoticed."""
    own = gemm()
    x, w = matrices(16, 64, 64)
    product(own, x, w)
    rows, sums = own._shared(gemm_shape(own.tile, 16, 64, 64))
    program = own.kernel.program((16, 64, 64))
    buffers: Sequence = [rows, own._weights["w"], sums]
    before = sums.array.copy()
    rows.array[:] = 0
    own.kernel.launch(program, buffers)
    sums.from_device()
    assert np.array_equal(sums.array, before)
    rows.to_device()
    own.kernel.launch(program, buffers)
    assert np.array_equal(sums.array, before)
    sums.from_device()
    assert not sums.array.any()


def test_what_is_closed_has_no_buffers() -> None:
    closed: list[str] = []
    own = gemm()
    own.kernel.close = lambda: closed.append("kernel")  # type: ignore[method-assign]
    x, w = matrices(5, 40, 70)
    product(own, x, w)
    buffers = [
        weakref.ref(own._weights["w"]),
        *map(weakref.ref, own._shared(gemm_shape(own.tile, 5, 40, 70))),
    ]
    own.close()
    assert closed == ["kernel"]
    assert [buffer() for buffer in buffers] == [None] * 3
    assert not own.has_weights("w")
