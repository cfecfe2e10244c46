"""Predicted times: the formulas by hand, and that more work never costs less."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.npu.gemm_kernels import evidence_of, gemm_entry
from whisper_npu.backends.npu.families.gemm import (
    gemm_bounds,
    gemm_seconds,
    gemm_shape,
    product_shape,
)
from whisper_npu.backends.npu.kernel_rates import (
    CLOCK,
    MATRIX_UNIT,
    PHOENIX_CORE,
    KernelRates,
    physical_limits,
)
from whisper_npu.backends.npu.packing import GemmTile
from whisper_npu.backends.npu.software import SoftwareDevice
from whisper_npu.backends.numpy.host_rates import HostRates, measure_host
from whisper_npu.model.builders import PHASES, build_phase, build_step
from whisper_npu.model.dims import KNOWN_DIMENSIONS

TILE = GemmTile(16, 64, 64)
RATES = KernelRates(1e-4, 1e11, 1e10, 5e9, "test")
sizes = st.integers(1, 3000)


def seconds(m: int, k: int, n: int, rates: KernelRates = RATES, tile: GemmTile = TILE) -> float:
    return gemm_seconds(gemm_shape(tile, m, k, n), tile, rates)


def test_a_product_by_hand() -> None:
    # [32, 128] x [128, 192]: A is read for each of 3 columns of tiles, B for each of 2 rows.
    moved = 3 * 32 * 128 + 2 * 128 * 192 + 4 * 32 * 192
    copied = (32 * 128 + 4 * 32 * 192) / 5e9
    computed = 2 * 32 * 128 * 192 / 1e11
    bound = replace(RATES, dma_bytes_per_second=1e15)
    assert seconds(32, 128, 192, bound) == pytest.approx(1e-4 + computed + copied, rel=1e-12)
    bound = replace(RATES, rate=1e18)
    assert seconds(32, 128, 192, bound) == pytest.approx(1e-4 + moved / 1e10 + copied, rel=1e-12)


def test_channels_and_short_rows_by_hand() -> None:
    moved = {"A": 3 * 32 * 128, "B": 2 * 128 * 192, "C": 4 * 32 * 192}
    fast = replace(RATES, rate=1e18, dma_bytes_per_second=1e18, channel_bytes_per_second=1e9)
    shape = gemm_shape(TILE, 32, 128, 192)
    found = gemm_bounds(shape, TILE, fast)
    assert {name: found[name] for name in moved} == {n: b / 1e9 for n, b in moved.items()}
    assert found["core"] + found["memory"] < 1e-9
    # Rows of 64 bytes, which A alone has.
    short = replace(fast, short_rows_bytes_per_second=1e8)
    assert gemm_bounds(shape, TILE, short) == {**found, "A": moved["A"] / 1e8}
    wide = GemmTile(16, 128, 64)
    assert gemm_bounds(shape, wide, short) == gemm_bounds(shape, wide, fast)
    copied = (32 * 128 + 4 * 32 * 192) / 5e9
    assert seconds(32, 128, 192, short) == pytest.approx(1e-4 + moved["A"] / 1e8 + copied)


@pytest.mark.parametrize("size", KNOWN_DIMENSIONS)
@pytest.mark.parametrize("tile", [TILE, GemmTile(64, 64, 64)])
def test_no_prediction_is_below_a_physical_bound(size: str, tile: GemmTile) -> None:
    """Of one core: its matrix unit, the channels of a column, memory, a launch."""
    for phase in PHASES:
        graph = build_phase(phase, KNOWN_DIMENSIONS[size], 4, "int8")
        for op in graph.ops:
            if op.kind == "product_int8":
                m, k, n = product_shape(graph, op)
                predicted = seconds(m, k, n, PHOENIX_CORE, tile)
                at_least = max(m * k, k * n, 4 * m * n) / (4 * CLOCK)
                at_least = max(at_least, m * k * n / (MATRIX_UNIT * CLOCK))
                at_least = max(at_least, (m * k + k * n + 4 * m * n) / 17e9)
                assert predicted >= 6e-5 + at_least, op.name


def test_padding_is_paid_for() -> None:
    assert seconds(1, 1, 1) == seconds(16, 64, 64) < seconds(17, 64, 64)


@given(sizes, sizes, sizes, sizes, sizes, sizes, st.sampled_from([TILE, GemmTile(64, 64, 64)]))
@settings(max_examples=60, deadline=None)
def test_more_work_never_costs_less(
    m: int, k: int, n: int, more_m: int, more_k: int, more_n: int, tile: GemmTile
) -> None:
    more = seconds(m + more_m, k + more_k, n + more_n, RATES, tile)
    assert RATES.launch_seconds < seconds(m, k, n, RATES, tile) <= more


@pytest.mark.parametrize("rate", ["rate", "dma_bytes_per_second", "copy_bytes_per_second"])
def test_slower_costs_more(rate: str) -> None:
    slower = replace(RATES, **{rate: getattr(RATES, rate) / 100})
    assert seconds(100, 100, 100, slower) > seconds(100, 100, 100)


def test_numpy_waits_for_the_slower_of_computing_and_moving() -> None:
    graph = build_step(KNOWN_DIMENSIONS["tiny"], precision="int8")
    (logits,) = (op for op in graph.ops if op.name == "fixed_logits")
    n, d = 51865, 384
    computing = HostRates(1e9, 1e18).seconds(graph, logits)
    assert computing == pytest.approx(2 * n * d / 1e9, rel=0.01)
    # The weight is held as float32 there; a row of 16 bits, scales, biases and sums.
    moving = HostRates(1e18, 1e9).seconds(graph, logits)
    assert moving == pytest.approx((4 * n * d + 2 * d + 4 + 3 * 4 * n) / 1e9, rel=1e-9)


def test_measured_rates_are_those_of_the_evidence() -> None:
    evidence = evidence_of(SoftwareDevice().identity, gemm_entry(64))
    rates = evidence.rates()
    assert (rates.launch_seconds, rates.rate, rates.copy_bytes_per_second) == (1e-4, 2e11, 1e10)
    assert rates.source == "measured by kernels verify on 2026-01-02"
    unknown = replace(evidence, rate=None, bytes_per_second=None).rates()
    assert math.isfinite(seconds(1500, 384, 384, unknown))


def test_the_host_is_measured() -> None:
    host = measure_host()
    assert 1e6 < host.flops < 1e16
    assert 1e6 < host.bytes_per_second < 1e15


def test_limits_by_hand() -> None:
    dims = KNOWN_DIMENSIONS["tiny"]
    d, layers, ctx = 384, 4, 1500
    # Rows of 16 bits take two products of 8 bits: all but those of layers behind the first, and of
    # what the decoder has of the audio.
    window = 2 * (
        2 * 3000 * 3 * 80 * d  # conv1
        + 2 * ctx * 3 * d * d  # conv2
        + 2 * ctx * d * d  # the rotation
        + (2 + layers - 1) * ctx * 12 * d * d
        + layers * 2 * ctx * d * d  # keys and values for the decoder
    )
    # Of cross-attention only queries and output: keys and values are made once.
    token = layers * 14 * d * d + 51865 * d
    limits = physical_limits(dims)
    assert limits["products of a window at 6.76 TOPS"] == pytest.approx(window / 6.76e12)
    assert limits["weights of a token at 17 GB/s"] == pytest.approx(token / 17e9)


def test_larger_models_have_larger_limits() -> None:
    limits = [
        physical_limits(KNOWN_DIMENSIONS[name])
        for name in ("tiny", "base", "small", "medium", "large-v3")
    ]
    for what in limits[0]:
        ordered = [limit[what] for limit in limits]
        assert ordered == sorted(ordered)
        assert len(set(ordered)) == len(ordered)


def test_the_described_device_says_that_it_was_not_measured() -> None:
    assert PHOENIX_CORE.describe() == (
        "200 us a launch, 0.6545 GOPS, DMA 17 GB/s, copies 16.0 GB/s, a channel 5.2 GB/s, rows of "
        "64 bytes 3.4 GB/s (published figures of Phoenix, a scalar core program; no such device "
        "was measured)"
    )
    # Our source has no loop for the matrix unit.
    assert PHOENIX_CORE.rate <= 2 * CLOCK / 2
