"""Products on the software device against int64, for shapes that no tile divides."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.npu.gemm_kernels import gemm_entry
from tests.unit.npu.products import bound_product, is_right, product_graph, rows_of
from whisper_npu.backends.npu.device import BufferRefused, DeviceError, LaunchFailed, LaunchTimedOut
from whisper_npu.backends.npu.families.gemm import GemmInt8, TilePacking, gemm_shape
from whisper_npu.backends.npu.kernel_rates import PHOENIX_CORE
from whisper_npu.backends.npu.packing import GemmTile, pack_gemm_weights, unpack_gemm_weights
from whisper_npu.backends.npu.runner import Launch, Runner
from whisper_npu.backends.npu.software import FaultHook, SoftwareDevice, no_fault
from whisper_npu.errors import KernelError
from whisper_npu.ops.arrays import I8
from whisper_npu.ops.rows import LARGEST_INT16, Integers

sizes = st.integers(1, 200)
tiles = st.builds(
    GemmTile, st.sampled_from([16, 64]), st.sampled_from([8, 64]), st.sampled_from([8, 64])
)


TILE = GemmTile(16, 64, 64)


@dataclass
class Gemm:
    """A kernel with what runs on it."""

    runner: Runner
    family: GemmInt8

    def load(self, name: str, w: I8) -> None:
        """Pack and synchronise a weight."""
        packing = TilePacking("gemm", self.family.tile, self.runner.take)
        packing.fill(packing.take(name, w.shape), w, 0)
        self.runner.synchronise(name)

    def launch(self, x: Integers, w: I8, name: str = "w") -> Launch:
        """A product, ready to run, of a weight that was loaded."""
        graph = product_graph(*x.shape, len(w), name, dtype=str(x.dtype))
        work = self.family.work(graph, 0, PHOENIX_CORE)
        assert work is not None
        packing = TilePacking("gemm", self.family.tile, self.runner.take)
        return self.runner.prepare(work, bound_product(graph, x, packing.take(name, w.shape)))


def gemm(tile: GemmTile = TILE, fault: FaultHook = no_fault) -> Gemm:
    entry = gemm_entry(tile=tile._asdict())
    family = GemmInt8(entry)
    return Gemm(Runner(SoftwareDevice(fault).open(entry), family), family)


def matrices(m: int, k: int, n: int, seed: int = 0) -> tuple[I8, I8]:
    rng = np.random.default_rng(seed)
    x, w = rng.integers(-128, 128, (m, k), np.int8), rng.integers(-128, 128, (n, k), np.int8)
    return x, w


def exact(x: I8, w: I8) -> np.ndarray:
    return x.astype(np.int64) @ w.astype(np.int64).T


def sums(launch: Launch, own: Gemm, x: I8, w: I8) -> np.ndarray:
    """What the kernel left in its buffer, without the padding."""
    shape = gemm_shape(own.family.tile, *x.shape, len(w))
    found = launch.outputs[0].array.view(np.int32).reshape(shape.padded[0], shape.padded[2])
    return found[: shape.m, : shape.n].copy()


def product(own: Gemm, x: I8, w: I8, name: str = "w") -> np.ndarray:
    own.load(name, w)
    launch = own.launch(x, w, name)
    launch()
    return sums(launch, own, x, w)


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


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("k", [70, 1025])
@pytest.mark.parametrize("bits", [8, 16])
def test_sums_are_scaled_as_specified(bits: int, k: int, bias: bool) -> None:
    _, w = matrices(5, k, 70)
    x, own = rows_of(5, k, bits), gemm()
    own.load("w", w)
    graph = product_graph(5, k, 70, "w", bias, dtype=f"int{bits}")
    work = own.family.work(graph, 0, PHOENIX_CORE)
    assert work is not None
    packed = own.runner.memory("w").view(np.int8).reshape(2, -1, 64 * 64)
    bound = bound_product(graph, x, packed)
    launch = own.runner.prepare(work, bound)
    launch()
    launch.read()
    assert is_right(bound, w)
    assert launch.wrong() is None
    launch.outputs[0].array.view(np.int32)[[0, 128]] += 1
    assert launch.wrong() == f"2 of {5 * 70 * bits // 8} sums"


def test_a_wrong_sum_beyond_24_bits_is_seen() -> None:
    """By one, where a float32 holds even integers alone."""
    x, w = np.full((1, 5120), 127, np.int8), np.full((1, 5120), 127, np.int8)
    own = gemm()
    own.load("w", w)
    launch = own.launch(x, w)
    launch()
    assert launch.wrong() is None
    launch.outputs[0].array.view(np.int32)[0] += 1
    assert launch.wrong() == "1 of 1 sums"


def test_int16_rows_are_launched_as_two_of_int8() -> None:
    """High halves, then low ones, in one launch."""
    x = np.array([[LARGEST_INT16, -LARGEST_INT16, 127, 128], [-128, -129, 256, 0]], np.int16)
    w = np.eye(4, dtype=np.int8)
    own = gemm()
    own.load("w", w)
    launch = own.launch(x, w)
    launch()
    rows = launch.inputs[0].array.view(np.int8).reshape(16, 64)
    high = [[127, -127, 0, 1], [0, -1, 1, 0]]
    low = [[127, -127, 127, -128], [-128, 127, 0, 0]]
    assert rows[:4, :4].tolist() == [*high, *low]
    assert not rows[:4, 4:].any()
    assert own.runner.kernel.contract.tile["m"] == 16
    assert launch.inputs[0].array.nbytes == 16 * 64


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


def test_padding_of_shared_buffers_stays_zero() -> None:
    """Whatever was in the memory, and though products of other k use the kernel."""

    class Used(SoftwareDevice):
        def open(self, entry):  # type: ignore[no-untyped-def]
            kernel = super().open(entry)
            make = kernel.buffer

            def buffer(argument: int, nbytes: int):  # type: ignore[no-untyped-def]
                made = make(argument, nbytes)
                made.array[:] = 0xAB
                return made

            kernel.buffer = buffer  # type: ignore[method-assign]
            return kernel

    family = GemmInt8(gemm_entry(16))
    own = Gemm(Runner(Used().open(gemm_entry(16)), family), family)
    for k in (60, 20):
        x, w = matrices(16, k, 70, k)
        own.load(f"w{k}", w)
        launch = own.launch(x, w, f"w{k}")
        launch()
        rows = launch.inputs[0].array.view(np.int8).reshape(16, 64)
        assert np.array_equal(rows[:, :k], x)
        assert not rows[:, k:].any()
        assert np.array_equal(sums(launch, own, x, w), exact(x, w))


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
    own.load("w", w)
    launch = own.launch(x, w)
    made = len(counting.actions)
    for _ in range(3):
        launch()
    assert counting.actions[made:] == ["launch"] * 3


@pytest.mark.parametrize("error", [LaunchFailed("no"), LaunchTimedOut("no")])
def test_buffers_of_a_failed_launch_are_not_used_again(error: DeviceError) -> None:
    """Nor given back, nor by another product that shared them: a launch that has not ended may
    still write to them."""
    counting = Counting("launch", 1, error)
    own = gemm(fault=counting)
    x, w = matrices(5, 40, 70)
    own.load("w", w)
    failing, other = own.launch(x, w), own.launch(x, w)
    first = (*failing.inputs, *failing.outputs)
    assert first == (*other.inputs, *other.outputs)
    with pytest.raises(type(error)):
        failing()
    (abandoned,) = own.runner._abandoned
    assert (*abandoned.inputs, *abandoned.outputs) == first
    # The kernel writes at last.
    other()
    first[1].array[:] = 7
    assert np.array_equal(sums(other, own, x, w), exact(x, w))
    assert not {*map(id, first)} & {*map(id, (*other.inputs, *other.outputs))}
    assert counting.actions.count("buffer") == 1 + 2 + 2


def test_a_refused_buffer_is_not_asked_for_again() -> None:
    """Its weight is in host memory by then. Other weights are asked for."""
    counting = Counting("buffer", 1, BufferRefused("full"))
    own = gemm(fault=counting)
    _, w = matrices(5, 40, 70)
    for _ in range(2):
        with pytest.raises(BufferRefused, match="full"):
            own.load("w", w)
    assert counting.actions.count("buffer") == 1
    assert not own.runner.has("w")
    own.load("another", w)
    assert own.runner.has("another")


def test_a_weight_is_taken_and_synchronised_once() -> None:
    counting = Counting()
    own = gemm(fault=counting)
    memory = own.runner.take("w", 4096)
    assert own.runner.synchronise("w") == 4096
    again = own.runner.take("w", 4096)
    assert np.may_share_memory(again, memory)
    assert own.runner.synchronise("w") == 0
    assert counting.actions.count("buffer") == 1


def test_rows_that_were_not_synchronised_are_not_seen() -> None:
    """The software device has memory of its own: a missing synchronisation cannot go unnoticed."""
    own = gemm()
    x, w = matrices(16, 64, 64)
    own.load("w", w)
    launch = own.launch(x, w)
    launch()
    (rows,), (sums,) = launch.inputs, launch.outputs
    program = own.runner.kernel.program((16, 64, 64))
    buffers: Sequence = [rows, own.runner._weights["w"], sums]
    before = sums.array.copy()
    rows.array[:] = 0
    own.runner.kernel.launch(program, buffers)
    sums.from_device()
    assert np.array_equal(sums.array, before)
    rows.to_device()
    own.runner.kernel.launch(program, buffers)
    assert np.array_equal(sums.array, before)
    sums.from_device()
    assert not sums.array.any()


def test_a_weight_that_was_not_synchronised_is_not_seen() -> None:
    own = gemm()
    x, w = matrices(16, 64, 64)
    packing = TilePacking("gemm", own.family.tile, own.runner.take)
    packing.fill(packing.take("w", w.shape), w, 0)
    launch = own.launch(x, w)
    launch()
    assert launch.wrong() is not None
    own.runner.synchronise("w")
    launch()
    assert launch.wrong() is None


def test_what_is_closed_has_no_buffers() -> None:
    closed: list[str] = []
    own = gemm()
    own.runner.kernel.close = lambda: closed.append("kernel")  # type: ignore[method-assign]
    x, w = matrices(5, 40, 70)
    own.load("w", w)
    launch = own.launch(x, w)
    buffers = [
        weakref.ref(buffer)
        for buffer in (own.runner._weights["w"], *launch.inputs, *launch.outputs)
    ]
    own.runner.close()
    assert closed == ["kernel"]
    # A step that there is keeps what it works on.
    assert None not in [buffer() for buffer in buffers]
    del launch
    assert [buffer() for buffer in buffers] == [None] * 3
    assert not own.runner.has("w")


@pytest.mark.parametrize(
    ("tile", "reason"),
    [
        ({}, r"its tile is \{\}; the family gemm_int8 takes m, k and n, each at least 1"),
        ({"m": 16, "k": 64}, "takes m, k and n"),
        ({"m": 16, "k": 64, "n": 64, "p": 1}, "takes m, k and n"),
        ({"m": 16, "k": 0, "n": 64}, "each at least 1"),
        ({"m": 16, "k": 6, "n": 64}, "tk = 6 is not a multiple of 4"),
    ],
)
def test_a_tile_that_a_registry_has_wrong_is_named(tile: dict[str, int], reason: str) -> None:
    with pytest.raises(KernelError, match=f"^kernel gemm_int8_16x64x64: .*{reason}"):
        GemmInt8(gemm_entry(16, tile=tile)).sample()
