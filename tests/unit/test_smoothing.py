"""Activation smoothing: the same function, and only where it helps."""

from __future__ import annotations

import numpy as np

from whisper_npu.convert import smoothing
from whisper_npu.ops.linear import layer_norm
from whisper_npu.ops.quant import linear_int8, quantize_rows, quantize_weight

RNG = np.random.default_rng


def activations(outlier: float) -> np.ndarray:
    """Rows of which one channel is ``outlier`` times as large as the others."""
    x = RNG(1).standard_normal((200, 64)).astype(np.float32)
    x[:, 5] *= np.float32(outlier)
    return x


def weight() -> np.ndarray:
    return RNG(2).standard_normal((48, 64)).astype(np.float32)


def int8_error(x: np.ndarray, w: np.ndarray, exact: np.ndarray) -> float:
    rows, scale = quantize_rows(x)
    quantized = quantize_weight(w)
    product = linear_int8(rows, scale, quantized.values.astype(np.float32), quantized.scale)
    return float(np.linalg.norm(product - exact))


def test_outliers_are_smoothed_and_the_error_falls() -> None:
    x, w = activations(60), weight()
    factor = smoothing.best_factor(x, [w])
    assert factor is not None
    assert factor[5] > 3 * np.median(factor)
    exact = x @ w.T
    assert int8_error(x / factor, w * factor, exact) < 0.7 * int8_error(x, w, exact)


def test_even_activations_are_left_alone() -> None:
    # All channels reach as far as each other: there is nothing to move.
    x = RNG(4).uniform(-1, 1, (400, 64)).astype(np.float32)
    w = RNG(5).uniform(-1, 1, (400, 64)).astype(np.float32)
    assert smoothing.best_factor(x, [w]) is None


def test_the_factors_leave_the_function_as_it_is() -> None:
    x, w = activations(60), weight()
    gain, bias = RNG(3).standard_normal((2, 64)).astype(np.float32)
    factor = smoothing.best_factor(x, [w])
    assert factor is not None
    plain = layer_norm(x, gain, bias) @ w.T
    folded = layer_norm(x, gain / factor, bias / factor) @ (w * factor).T
    np.testing.assert_allclose(folded, plain, atol=2e-5 * np.abs(plain).max())
