"""INT8 arithmetic against integers that cannot overflow."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from whisper_npu.ops import linear, quant


def reference_rows(x: NDArray[np.float32]) -> NDArray[np.int64]:
    """The rows quantised value by value, in exact rational arithmetic but for the two divisions."""
    result = np.zeros(x.shape, np.int64)
    for row, target in zip(x, result, strict=True):
        largest = max(abs(value) for value in row)
        if largest >= np.float32(1e-30):
            inverse = np.float32(127) / largest
            # round() of a Fraction is half to even; the product is rounded to float32 first.
            target[:] = [round(Fraction(float(np.float32(value * inverse)))) for value in row]
    return result


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 40), st.integers(-24, 24))
@settings(max_examples=60, deadline=None)
def test_rows_are_quantised_as_defined(seed: int, m: int, k: int, exponent: int) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((m, k)) * 10.0**exponent).astype(np.float32)
    values, scale = quant.quantize_rows(x)
    assert values.dtype == np.int8
    assert np.array_equal(values, reference_rows(x))
    assert np.array_equal(scale, np.abs(x).max(axis=1) / np.float32(127))


def test_half_goes_to_even() -> None:
    x = np.array([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]], np.float32)
    assert quant.quantize_rows(x)[0].tolist() == [[127, 0, 2, 2, 0, -2]]


def test_zero_and_tiny_rows_give_zeros() -> None:
    x = np.array([[0, 0, 0], [1e-38, -1e-40, 0], [1e-31, 0, 0]], np.float32)
    values, scale = quant.quantize_rows(x)
    assert not values.any()
    assert np.isfinite(scale).all()


def test_a_chunk_cannot_exceed_the_integers_of_float32() -> None:
    assert 128 * 127 * quant.EXACT_K < 2**24


def test_an_outlier_takes_the_whole_range() -> None:
    x = np.array([[1.0, -1.0, 1e4, 0.1]], np.float32)
    assert quant.quantize_rows(x)[0].tolist() == [[0, 0, 127, 0]]


def test_a_row_with_nan_gives_nan_and_spoils_no_other() -> None:
    x = np.array([[1.0, np.nan], [1.0, 2.0]], np.float32)
    w = quant.quantize_weight(np.eye(2, dtype=np.float32))
    values, scale = quant.quantize_rows(x)
    y = quant.linear_int8(values, scale, w.values.astype(np.float32), w.scale)
    assert np.isnan(y[0]).all()
    assert np.isfinite(y[1]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_with_nan_or_infinity_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        quant.quantize_weight(np.array([[1.0, bad]], np.float32))


def test_a_weight_is_within_half_a_step() -> None:
    w = np.random.default_rng(1).standard_normal((30, 7, 3)).astype(np.float32)
    w[3] = 0
    quantized = quant.quantize_weight(w)
    error = np.abs(quantized.dequantize() - w).reshape(30, -1).max(axis=1)
    assert (error <= quantized.scale * np.float32(0.5001)).all()
    assert not quantized.dequantize()[3].any()


KINDS = st.sampled_from(["random", "extreme", "constant", "alternating"])


def integers(rng: np.random.Generator, kind: str, rows: int, k: int) -> NDArray[np.int8]:
    if kind == "extreme":
        return rng.choice(np.array([-127, 127], np.int8), (rows, k))
    if kind == "constant":
        return np.full((rows, k), 127, np.int8)
    if kind == "alternating":
        return np.tile(np.array([127, -127], np.int8), (rows, k // 2 + 1))[:, :k]
    return rng.integers(-127, 128, (rows, k)).astype(np.int8)


@given(
    st.integers(0, 2**32),
    st.integers(1, 40),
    st.integers(1, 5120),
    st.integers(1, 20),
    KINDS,
    KINDS,
)
@settings(max_examples=150, deadline=None)
def test_products_equal_int64_for_every_k(
    seed: int, m: int, k: int, n: int, x_kind: str, w_kind: str
) -> None:
    rng = np.random.default_rng(seed)
    x, w = integers(rng, x_kind, m, k), integers(rng, w_kind, n, k)
    exact = x.astype(np.int64) @ w.astype(np.int64).T
    product = quant.integer_product(x.astype(np.float32), w.astype(np.float32))
    assert np.array_equal(product, exact.astype(np.float32))


@pytest.mark.parametrize("k", [1, 1023, 1024, 1025, 2047, 2048, 2049, 3072, 4096, 5119, 5120])
@pytest.mark.parametrize("m", [1, 2, 17])
def test_products_at_the_edges_of_the_chunks(k: int, m: int) -> None:
    rng = np.random.default_rng(k)
    for x_kind in ("extreme", "constant", "random"):
        x, w = integers(rng, x_kind, m, k), integers(rng, x_kind, 9, k)
        exact = x.astype(np.int64) @ w.astype(np.int64).T
        # The sum is odd or even to the last bit: converting it to float32 is the only rounding.
        product = quant.integer_product(x.astype(np.float32), w.astype(np.float32))
        assert np.array_equal(product, exact.astype(np.float32))


@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(1, 2500), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_the_epilogue_is_rounded_in_the_stated_order(seed: int, m: int, k: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    x, x_scale = quant.quantize_rows(rng.standard_normal((m, k)).astype(np.float32))
    w = quant.quantize_weight(rng.standard_normal((n, k)).astype(np.float32))
    b = rng.standard_normal(n).astype(np.float32)
    y = quant.linear_int8(x, x_scale, w.values.astype(np.float32), w.scale, b)
    sums = (x.astype(np.int64) @ w.values.astype(np.int64).T).astype(np.float32)
    for i, j in np.ndindex(m, n):
        scaled = np.float32(np.float32(sums[i, j] * x_scale[i]) * w.scale[j])
        assert y[i, j] == np.float32(scaled + b[j])


def test_the_product_is_as_near_the_real_one_as_the_steps_allow() -> None:
    rng = np.random.default_rng(5)
    m, k, n = 20, 1536, 30
    x = rng.standard_normal((m, k)).astype(np.float32)
    w = rng.standard_normal((n, k)).astype(np.float32)
    rows, x_scale = quant.quantize_rows(x)
    weight = quant.quantize_weight(w)
    y = quant.linear_int8(rows, x_scale, weight.values.astype(np.float32), weight.scale)
    # Each factor is off by at most half a step.
    bound = np.abs(x) @ np.broadcast_to(weight.scale[:, None] / 2, w.shape).T + (
        x_scale[:, None] / 2
    ) * (np.abs(w).sum(axis=1) + k * weight.scale / 2)
    assert (np.abs(y - x.astype(np.float64) @ w.T.astype(np.float64)) <= bound * 1.001).all()


def test_the_embedding_equals_the_dequantised_one() -> None:
    rng = np.random.default_rng(6)
    table = quant.quantize_weight(rng.standard_normal((50, 16)).astype(np.float32))
    positions = rng.standard_normal((9, 16)).astype(np.float32)
    tokens = rng.integers(0, 50, (3, 4))
    found = quant.embed_int8(tokens, table.values.astype(np.float32), table.scale, positions, 2)
    assert np.array_equal(found, linear.embed(tokens, table.dequantize(), positions, 2))
