"""Weights as version 1 of model folders holds them, against exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from whisper_npu.ops import quant


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
    w = (rng.standard_normal((m, k)) * 10.0**exponent).astype(np.float32)
    quantized = quant.quantize_weight(w)
    assert quantized.values.dtype == np.int8
    assert np.array_equal(quantized.values, reference_rows(w))
    assert np.array_equal(quantized.scale, np.abs(w).max(axis=1) / np.float32(127))


def values(row: list[float]) -> list[int]:
    """The integers of a weight of one row."""
    (found,) = quant.quantize_weight(np.array([row], np.float32)).values.tolist()
    return list(found)


def test_half_goes_to_even() -> None:
    assert values([127.0, 0.5, 1.5, 2.5, -0.5, -1.5]) == [127, 0, 2, 2, 0, -2]


def test_zero_and_tiny_rows_give_zeros() -> None:
    w = np.array([[0, 0, 0], [1e-38, -1e-40, 0], [1e-31, 0, 0]], np.float32)
    quantized = quant.quantize_weight(w)
    assert not quantized.values.any()
    assert np.isfinite(quantized.scale).all()


def test_an_outlier_takes_the_whole_range() -> None:
    assert values([1.0, -1.0, 1e4, 0.1]) == [0, 0, 127, 0]


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


def test_some_rows_are_those_of_the_weight() -> None:
    w = np.random.default_rng(2).standard_normal((9, 4)).astype(np.float32)
    quantized = quant.quantize_weight(w)
    part = quantized[slice(2, 5)]
    np.testing.assert_array_equal(part.dequantize(), quantized.dequantize()[2:5])
