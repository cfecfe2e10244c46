"""Every lie of a GEMM kernel is found in the first launch in which it is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from tests.support.npu.gemm_kernels import SMALL, gemm_entry
from tests.support.npu.liars import LIES, Liar, Lie, drawn
from tests.unit.npu.products import bound_product, is_right, product_graph
from whisper_npu.backends.npu.backend import NpuBackend
from whisper_npu.backends.npu.kernel_rates import PHOENIX_CORE
from whisper_npu.backends.npu.manager import VERIFIED, KernelStatus
from whisper_npu.backends.npu.verify_kernel import verify
from whisper_npu.ops.arrays import I8
from whisper_npu.ops.rows import Integers, limit
from whisper_npu.runtime.backend import Bound, Offer, Step
from whisper_npu.runtime.usage import Usage

DRAWN = 1000
SHAPE = (20, 70, 75)


class Products:
    """Products [m, k] x [k, n] of one kernel on a device that lies, of two weights that begin
    alike."""

    def __init__(self, liar: Liar, shape: tuple[int, int, int], bits: int = 8) -> None:
        self.m, self.k, self.n = shape
        self.usage, self.liar = Usage(), liar
        kernel = KernelStatus(gemm_entry(16), {}, VERIFIED, None)
        self._npu = NpuBackend(liar, [kernel], {SMALL: PHOENIX_CORE}, self.usage, check_rate=0.0)
        self._bits = bits
        rng = np.random.default_rng(0)
        first: I8 = rng.integers(-128, 128, (self.n, self.k), np.int8)
        second: I8 = rng.integers(-128, 128, (self.n, self.k), np.int8)
        # Every second column has the largest sums that there are, with rows of one sign.
        first[::2] = -128
        # And every fourth one large ones of any last bits.
        first[1::4] |= 64
        first[1::4] &= 127
        second[:8, :8] = first[:8, :8]
        self._pairs = [self._bound(f"w{i}", w) for i, w in enumerate((first, second))]

    def _bound(self, name: str, w: I8) -> tuple[Step, Bound, I8]:
        dtype = f"int{self._bits}"
        graph = product_graph(self.m, self.k, self.n, name, name=name, dtype=dtype)
        offer = self._npu.offer(graph, 0)
        assert isinstance(offer, Offer)
        (form,) = offer.forms[name]
        assert form.packing is not None
        packed = form.packing.take(name, w.shape)
        form.packing.fill(packed, w, 0)
        made = bound_product(graph, self.rows(0), packed)
        return offer.bind(made), made, w

    def rows(self, seed: int) -> Integers:
        """Of all values, of one sign, or of full scale."""
        largest = limit(self._bits, self.k)
        rng = np.random.default_rng(seed)
        kinds = (
            lambda shape: rng.integers(-largest, largest + 1, shape),
            lambda shape: np.full(shape, largest),
            lambda shape: rng.choice([-largest, largest], shape),
        )
        return kinds[seed % 3]((self.m, self.k)).astype(f"int{self._bits}")

    def run(self, launches: int) -> Iterator[int]:
        """So many launches, each with new rows in the same buffers, all of which must be right.
        Gives the number of each."""
        for i in range(launches):
            step, made, w = self._pairs[i % 2]
            np.copyto(made.inputs[0], self.rows(i))
            step()
            assert is_right(made, w), i
            yield i


def found_at_once(products: Products, launches: int) -> list[int]:
    """Run launches until the kernel is out, which must be in the launch in which it lies first."""
    liar, usage = products.liar, products.usage
    for i in products.run(launches):
        if liar.told or usage.fallbacks:
            assert liar.told == [i]
            (event,) = usage.fallbacks
            assert event.reason == "wrong result"
            assert "checksums of" in event.detail
            break
    told = list(liar.told)
    if told:
        # The kernel is out.
        for _ in products.run(4):
            pass
        assert liar.told == told
    assert usage.counts.launches == usage.counts.proofs
    return told


# What shows a lie, where two small products do not: rows, values, columns.
SHOWN_BY = {
    "saturates at 2^25": (16, 2112, 64),
    "rounds to float32": (16, 2112, 64),
    "saturates at 2^23": (16, 576, 64),
    "wraps below -2^23": (16, 576, 64),
    "last row from 384 rows on": (384, 64, 64),
    "rows beyond the third strip": (64, 64, 64),
    "right for some k": (16, 300, 64),
    "zeros beyond 256 tiles": (2, 64, 257 * 64),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_found_where_it_is_told(name: str) -> None:
    shape = SHOWN_BY.get(name, SHAPE)
    liar = Liar(LIES[name](), own=(shape[0], shape[2]))
    if name.startswith("last row"):
        shape = SHOWN_BY["last row from 384 rows on"]
        liar.own = None
    assert found_at_once(Products(liar, shape), 200) != []


@pytest.mark.parametrize("name", ["reads rows once", "returns the last result", "last row"])
def test_rows_of_16_bits(name: str) -> None:
    """Both halves of a row are in one launch."""
    shape = (32, 64, 64)
    assert found_at_once(Products(Liar(LIES[name]()), shape, bits=16), 20) != []


def test_an_honest_kernel_stays() -> None:
    def nothing(product: object) -> None:
        pass

    for bits in (8, 16):
        products = Products(Liar(nothing), SHAPE, bits)
        assert list(products.run(30)) == list(range(30))
        assert products.usage.fallbacks == []
        assert products.usage.counts.proofs == products.usage.counts.launches == 30


def lies_drawn(seeds: Sequence[int]) -> int:
    """How many of them were told at all."""
    told = 0
    for seed in seeds:
        what, lie = drawn(seed, (SHAPE[0], SHAPE[2]))
        try:
            told += bool(found_at_once(Products(_liar(lie), SHAPE), 40))
        except AssertionError as error:
            raise AssertionError(f"lie {seed}: {what}") from error
    return told


def _liar(lie: Lie) -> Liar:
    return Liar(lie, own=(SHAPE[0], SHAPE[2]))


def test_lies_drawn_by_seed() -> None:
    assert lies_drawn(range(DRAWN)) > 0.85 * DRAWN


@pytest.mark.parametrize("name", LIES)
def test_a_liar_does_not_pass_verification(name: str) -> None:
    liar = Liar(LIES[name]())
    found = verify(liar, gemm_entry(16))
    assert liar.told != []
    assert not found.passed
    # In the launch in which it lies first.
    assert liar.told == [found.launches - 1]
