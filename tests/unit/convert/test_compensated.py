"""Compensated rounding: against its definition in float64, and against rounding to the nearest."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from whisper_npu.convert import compensated as module
from whisper_npu.convert.compensated import DAMPING, compensated, inputs_of
from whisper_npu.model.integer_weights import nearest, row_scales

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def correlated(m: int, k: int, seed: int = 0) -> F32:
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((m, k)) @ rng.standard_normal((k, k))
    return (mixed * np.exp(rng.standard_normal(k))).astype(np.float32)


def moments(x: F32) -> F64:
    found = x.T.astype(np.float64) @ x / len(x)
    return found + DAMPING * np.diag(found).mean() * np.eye(len(found))


def result_error(matrix: F64, values: NDArray[np.int8], scale: F32, h: F64) -> float:
    error = matrix - values * scale[:, None].astype(np.float64)
    return float(np.einsum("nk,kl,nl->", error, h, error))


@pytest.fixture
def matrix() -> F64:
    return np.random.default_rng(5).standard_normal((40, 90))


@pytest.mark.parametrize("m", [30, 2000])
def test_products_err_much_less_than_of_the_nearest(matrix: F64, m: int) -> None:
    x = correlated(m, 90)
    scale = row_scales(matrix)
    values, error, square = compensated(matrix, scale, inputs_of(x))
    assert np.abs(values).max() <= 127
    h = moments(x)
    assert error == pytest.approx(result_error(matrix, values, scale, h), rel=1e-2)
    assert square == pytest.approx(np.einsum("nk,kl,nl->", matrix, h, matrix), rel=1e-3)
    assert error < 0.6 * result_error(matrix, nearest(matrix, scale), scale, h)


def test_every_value_is_rounded_as_defined(matrix: F64, monkeypatch: pytest.MonkeyPatch) -> None:
    x, scale = correlated(500, 90), row_scales(matrix)
    h = moments(x)
    order = np.argsort(np.diag(x.T.astype(np.float64) @ x), kind="stable")
    lower = np.linalg.cholesky(h[np.ix_(order, order)])
    wanted = (matrix / scale[:, None])[:, order]
    expected = np.zeros_like(wanted)
    for j in reversed(range(90)):
        left = wanted[:, j] + (wanted - expected)[:, j + 1 :] @ lower[j + 1 :, j] / lower[j, j]
        expected[:, j] = np.clip(np.rint(left), -127, 127)
    for columns in (64, 7):
        monkeypatch.setattr(module, "_COLUMNS", columns)
        values, _, _ = compensated(matrix, scale, inputs_of(x))
        # float32 may round a half in another way, and what follows with it.
        assert (values[:, order] == expected).mean() > 0.999


def test_inputs_that_do_not_vary_together_leave_the_nearest(matrix: F64) -> None:
    scale = row_scales(matrix)
    values, _, _ = compensated(matrix, scale, inputs_of(np.eye(90, dtype=np.float32)))
    assert np.array_equal(values, nearest(matrix, scale))


def test_rows_and_inputs_of_zeros(matrix: F64) -> None:
    matrix[3] = 0
    scale = row_scales(matrix)
    x = correlated(500, 90)
    x[:, 10:20] = 0
    values, error, _ = compensated(matrix, scale, inputs_of(x))
    assert not values[3].any()
    assert np.isfinite(error)
    values, error, _ = compensated(matrix, scale, inputs_of(np.zeros((5, 90), np.float32)))
    assert np.array_equal(values, nearest(matrix, scale))
    assert error == pytest.approx(0, abs=1e-30)


def test_inputs_that_overflow_leave_the_nearest(matrix: F64) -> None:
    x = correlated(500, 90)
    x[0, 0] = np.inf
    scale = row_scales(matrix)
    with np.errstate(all="ignore"):
        values, _, _ = compensated(matrix, scale, inputs_of(x))
    assert np.array_equal(values, nearest(matrix, scale))


def test_moments_that_rounding_made_indefinite_are_damped_more() -> None:
    # Rank 1, and one direction below zero by more than the damping.
    h = np.diag([1.0, 1.0, -1.5])
    factor = module._cholesky(h, 1.0)
    assert np.isfinite(factor).all()
    assert (np.diag(factor) > 0).all()


def test_moments_are_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    x = correlated(500, 20)
    whole = inputs_of(x)
    monkeypatch.setattr(module, "_SUMMED", 64)
    parts = inputs_of(x)
    assert np.array_equal(whole.order, parts.order)
    assert np.allclose(whole.lower, parts.lower, atol=1e-4)
