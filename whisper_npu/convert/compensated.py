"""Error-compensated rounding of a matrix to integers, given what it is multiplied with.

Of a product W x the error that counts is that of its results over the inputs x that come, which is
tr((W - V) H (W - V)^T) for V the rounded matrix and H = E[x x^T]. GPTQ (Frantar et al., arXiv
2210.17323) rounds one column after the other and lets the columns that are still to come take up
the error. That is Babai's nearest plane algorithm (Chen et al., arXiv 2507.18553), which is what is
computed here: with H = L L^T and columns from last to first, what is rounded is

    w[j] + sum_{i > j} (w[i] - v[i]) L[i, j] / L[j, j].

The columns with the largest inputs are the first to be rounded. All is done in units of the scales
of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whisper_npu.ops.arrays import F32, I8
from whisper_npu.ops.fixed import F64
from whisper_npu.ops.rows import LARGEST_INT8

# What is added to the diagonal of H, over its mean: inputs that were hardly seen count, too.
DAMPING = 0.01
# Columns whose errors are carried to the columns after them in one product.
_COLUMNS = 64
# Rows of which second moments are added up in float32.
_SUMMED = 4096


@dataclass(frozen=True)
class Inputs:
    """What a product's inputs are like: H = L L^T, its columns in the order ``order``.

    ``lower`` is L [k, k] without its diagonal, each column divided by it; ``diagonal`` is that
    diagonal, [k].
    """

    order: NDArray[np.intp]
    lower: F32
    diagonal: F32


def inputs_of(x: F32) -> Inputs:  # [m, k]
    """The second moments of the rows of ``x``, damped, and their Cholesky factor."""
    m, k = x.shape
    moments = np.zeros((k, k))
    for first in range(0, m, _SUMMED):
        rows = x[first : first + _SUMMED]
        moments += rows.T @ rows
    moments /= m
    if not np.isfinite(moments).all():
        # Weights that are no model's: there is nothing to be learnt from what they compute.
        moments = np.eye(k)
    diagonal = moments.diagonal().copy()
    order = np.argsort(diagonal, kind="stable")
    lower: F64 = _cholesky(moments[np.ix_(order, order)], float(diagonal.mean()))
    roots = lower.diagonal().copy()
    np.divide(lower, roots, out=lower)
    lower.flat[:: k + 1] = 0
    return Inputs(order, lower.astype(np.float32), roots.astype(np.float32))


def _cholesky(moments: F64, mean: float) -> F64:  # [k, k] -> [k, k]
    """The factor of damped moments, whose diagonal has such a mean."""
    # Inputs that are all zero leave nothing to be compensated.
    damping = DAMPING * mean + np.finfo(np.float32).tiny
    k = len(moments)
    while True:
        moments.flat[:: k + 1] += damping
        try:
            return np.asarray(np.linalg.cholesky(moments), np.float64)
        except np.linalg.LinAlgError:
            # Sums in float32 have made a matrix of few inputs indefinite.
            damping *= 10


def compensated(
    matrix: F64, scale: F32, inputs: Inputs
) -> tuple[I8, float, float]:  # [n, k], [n] -> [n, k]
    """The matrix in integers of [-127, 127], for products with such inputs.

    Also the mean square of the errors of the results that this makes, summed over the rows, and
    that of the results.
    """
    n, k = matrix.shape
    unit = np.where(scale > 0, scale, np.float32(1))
    # Transposed: a column of the matrix is one piece.
    wanted = np.ascontiguousarray((matrix / unit[:, None])[:, inputs.order].T, np.float32)
    wanted[:, scale == 0] = 0
    errors = np.empty_like(wanted)
    rounded = np.empty((k, n), np.int8)
    squares = 0.0
    for stop in range(k, 0, -_COLUMNS):
        start = max(0, stop - _COLUMNS)
        lower = inputs.lower[start:stop, start:stop]
        left = wanted[start:stop] + inputs.lower[stop:, start:stop].T @ errors[stop:]
        for j in range(stop - start - 1, -1, -1):
            value = np.rint(left[j])
            np.clip(value, -LARGEST_INT8, LARGEST_INT8, out=value)
            rounded[start + j] = value
            error = np.subtract(wanted[start + j], value, out=errors[start + j])
            left[:j] += lower[j, :j, None] * error
            left[j] -= value
        left *= inputs.diagonal[start:stop, None] * unit
        squares += float(np.vdot(left, left))
    values = np.empty((n, k), np.int8)
    values[:, inputs.order] = rounded.T
    wanted *= unit
    results = wanted + inputs.lower.T @ wanted
    results *= inputs.diagonal[:, None]
    return values, squares, float(np.vdot(results, results))
