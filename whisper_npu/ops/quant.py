"""INT8: symmetric quantisation by rows, and products of integers that are exact.

Weights are quantised once, activations row by row as they come; both by ``quantize_rows``. A
product is the exact int32 sum over all of K, scaled once at the end:

    y[i, j] = float32(sum_k x[i, k] w[j, k]) * x_scale[i] * w_scale[j] + b[j]

with every step rounded to float32 in this order, so that any other implementation of these
integers gives the same floats.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whisper_npu.ops.arrays import F32, I8, I32, I64

LARGEST = np.float32(127)
# Below this a row counts as zero: 127 divided by anything much smaller is no float32.
_SMALLEST = np.float32(1e-30)
# A float32 product is exact while every partial sum stays below 2**24; 128 * 127 * 1024 does.
EXACT_K = 1024


@dataclass(frozen=True)
class Quantized:
    """A weight as integers in [-127, 127] with one scale per row (output channel).

    ``values`` is int8 [n, ...], ``scale`` float32 [n]; the weight is ``values * scale``.
    """

    values: I8
    scale: F32

    def __getitem__(self, rows: slice) -> Quantized:
        return Quantized(self.values[rows], self.scale[rows])

    def dequantize(self) -> F32:
        """The weight as float32, of the shape of ``values``."""
        scale = self.scale.reshape(-1, *[1] * (self.values.ndim - 1))
        return np.multiply(self.values, scale, dtype=np.float32)


def quantize_rows(
    x: F32, values: I8 | None = None, scale: F32 | None = None
) -> tuple[I8, F32]:  # [..., k] -> [..., k], [...]
    """Quantise rows: scale = max |x| / 127, values = rint(x * (127 / max |x|)), half to even.

    A row of zeros gets zeros. A row with a NaN gets a scale that is NaN.
    """
    largest = np.maximum(x.max(axis=-1), -x.min(axis=-1))
    scale = np.divide(largest, LARGEST, out=scale)
    inverse = np.zeros_like(largest)
    np.divide(LARGEST, largest, out=inverse, where=largest >= _SMALLEST)
    rounded = x * inverse[..., None]
    np.rint(rounded, out=rounded)
    if values is None:
        values = np.empty(x.shape, np.int8)
    with np.errstate(invalid="ignore"):
        np.copyto(values, rounded, casting="unsafe")
    return values, scale


def quantize_weight(w: F32) -> Quantized:  # [n, ...] -> [n, ...], [n]
    """Quantise a weight by output channels. Raises ValueError if it holds NaN or infinity."""
    with np.errstate(invalid="ignore"):
        values, scale = quantize_rows(w.reshape(w.shape[0], -1))
    # The scale of a row is as large as its largest value, and NaN where one is.
    if not np.isfinite(scale).all():
        raise ValueError("holds NaN or infinity")
    return Quantized(values.reshape(w.shape), scale)


def linear_int8(
    x: I8,
    x_scale: F32,
    w: F32,
    w_scale: F32,
    b: F32 | None = None,
    out: F32 | None = None,
    scratch: F32 | None = None,
) -> F32:  # [m, k], [m], [n, k], [n], [n] -> [m, n]
    """The product of quantised rows with quantised weights, as defined above.

    ``w`` holds the integers as float32, for BLAS has no int8. ``scratch`` has room for m * k
    floats, and m * n more where k > EXACT_K.
    """
    (m, k), n = x.shape, w.shape[0]
    if scratch is None:
        scratch = np.empty(scratch_size(m, k, n), np.float32)
    rows = scratch[: m * k].reshape(m, k)
    np.copyto(rows, x)
    return scale_product(integer_product(rows, w, out, scratch[m * k :]), x_scale, w_scale, b)


def scale_product(
    product: F32, x_scale: F32, w_scale: F32, b: F32 | None
) -> F32:  # [m, n], [m], [n], [n] -> [m, n]
    """Scale sums, rounded to float32, in place: the last step wherever they were computed."""
    product *= x_scale[:, None]
    product *= w_scale
    if b is not None:
        product += b
    return product


def scratch_size(m: int, k: int, n: int) -> int:
    """Floats of scratch that ``linear_int8`` works in."""
    return m * k + (m * n if k > EXACT_K else 0)


def integer_product(
    x: F32, w: F32, out: F32 | None = None, scratch: F32 | None = None
) -> F32:  # [m, k], [n, k] -> [m, n]
    """``x @ w.T`` of integers of at most 128 in float32, rounded once from the exact int32 sum.

    ``scratch`` has room for m * n values of 32 bits where k > EXACT_K.
    """
    k = x.shape[1]
    out = np.matmul(x[:, :EXACT_K], w[:, :EXACT_K].T, out=out)
    if k <= EXACT_K:
        return out
    if scratch is None:
        scratch = np.empty(out.size, np.float32)
    total: I32 = scratch[: out.size].reshape(out.shape).view(np.int32)
    np.copyto(total, out, casting="unsafe")
    for start in range(EXACT_K, k, EXACT_K):
        part = slice(start, start + EXACT_K)
        np.matmul(x[:, part], w[:, part].T, out=out)
        # Added in float64, which holds both exactly.
        np.add(total, out, out=total, casting="unsafe")
    np.copyto(out, total, casting="same_kind")
    return out


def embed_int8(
    tokens: I64, table: F32, scale: F32, positions: F32, position: int, out: F32 | None = None
) -> F32:  # [b, n], [v, d], [v], [ctx, d] -> [b, n, d]
    """Token embedding from quantised rows (integers of any dtype) plus that of the positions."""
    out = np.multiply(table[tokens], scale[tokens][..., None], out=out)
    out += positions[position : position + tokens.shape[1]]
    return out
