"""Products of quantised rows with int8 weights, and the elementwise ops of the integer network.

All results are int32 with FRACTION fraction bits.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from whisper_npu.ops.arrays import F32, I32, I64
from whisper_npu.ops.fixed import FRACTION, LARGEST, magnitude, saturate
from whisper_npu.ops.linear import places
from whisper_npu.ops.rows import Integers

# Bits of the mantissa of a weight's scale.
WEIGHT_SCALE_BITS = 14
# A float32 product is exact while every partial sum stays below 2**24; 128 * 127 * 1024 does.
_EXACT_K = 1024

_ONE = 2.0**FRACTION


def integer_sums(x: Integers, w: NDArray[np.float32]) -> NDArray[np.float64]:
    # [m, k], [n, k] -> [m, n]
    """``x @ w.T``, exact, of int8 or int16 rows with int8 weights that float32 holds for BLAS.

    An int16 is 256 times an integer in [-128, 128] (within ``rows.limit``, in [-127, 127]) and an
    integer in [-128, 127].
    """
    if x.dtype == np.int8:
        return _exact_product(x.astype(np.float32), w)
    low = x.astype(np.int8)
    high = (x.astype(np.int32) - low) >> 8
    total = _exact_product(high.astype(np.float32), w)
    total *= 256.0
    total += _exact_product(low.astype(np.float32), w)
    return total


def _exact_product(x: F32, w: F32) -> NDArray[np.float64]:  # [m, k], [n, k] -> [m, n]
    total = np.zeros((len(x), len(w)), np.float64)
    for start in range(0, x.shape[1], _EXACT_K):
        part = slice(start, start + _EXACT_K)
        total += x[:, part] @ w[:, part].T
    return total


def product_int8(
    x: Integers,
    x_scale: F32,
    w: F32,
    w_scale: F32,
    bias: I32 | None = None,
    out: I32 | None = None,
) -> I32:  # [m, k], [m], [n, k], [n], [n] -> [m, n]
    """``sat(rint(sum * x_scale * w_scale * 2**FRACTION) + bias)``, halves to even.

    ``x`` is int8 or int16, ``w`` holds int8 as float32. The product of a sum (31 bits) and two
    scales (8 and 14 bits) is exact in float64 and is rounded once.
    """
    return scale_sums(integer_sums(x, w), x_scale, w_scale, bias, out)


def scale_sums(
    sums: NDArray[np.float64],
    x_scale: F32,
    w_scale: F32,
    bias: I32 | None = None,
    out: I32 | None = None,
) -> I32:  # [m, n], [m], [n], [n] -> [m, n]
    """The last step of ``product_int8``, wherever the sums were computed; changes ``sums``."""
    sums *= x_scale[:, None] * _ONE
    sums *= w_scale
    np.rint(sums, out=sums)
    if bias is not None:
        sums += bias
    return saturate(sums, out)


def embed_int32(
    tokens: I64, table: Integers, scale: F32, positions: I32, position: I64, out: I32 | None = None
) -> I32:  # [b, n], [v, d], [v], [ctx, d], [w] -> [b, n, d]
    """``sat(rint(table * scale * 2**FRACTION) + positions)``: the embedding of tokens and places.

    ``table`` holds int8, in any dtype.
    """
    rows = table[tokens] * (scale[tokens].astype(np.float64)[..., None] * _ONE)
    np.rint(rows, out=rows)
    rows += positions[places(position, tokens)]
    return saturate(rows, out)


def add_int32(
    x: I32, y: I32, out: I32 | None = None, cut: I32 | None = None
) -> I32:  # [..., n], [n] or [..., n] -> [..., n], []
    """The saturated sum; ``out`` may be ``x``.

    ``cut`` becomes 1 if a term or a sum is at the limit or beyond it, else 0: of a term at the
    limit nobody knows how far beyond it was before it was cut.
    """
    largest = magnitude(x), magnitude(y)
    # Nearly always: no float64 is needed, and no second look.
    if sum(largest) < LARGEST:
        if cut is not None:
            cut[...] = 0
        within: I32 = np.add(x, y, out=out)
        return within
    sums = np.add(x, y, dtype=np.float64)
    if cut is not None:
        cut[...] = max(*largest, magnitude(sums)) >= LARGEST
    return saturate(sums, out)


# gelu(x) = max(x, 0) - h(|x|) with h(t) = t (1 - Phi(t)). On eight intervals of width 1/2 h is a
# cubic in the place within the interval, coefficients fitted for the least largest error, with 20
# fraction bits; from 4 on it is taken as 0 (h(4) is half a step).
GELU_COEFFICIENTS = (
    (-28, 263098, -109478, 8142),
    (161760, 69608, -81699, 16691),
    (166381, -44216, -29151, 12083),
    (105095, -67317, 6759, 3190),
    (47716, -44831, 14968, -1569),
    (16278, -19674, 9568, -1926),
    (4245, -6204, 3766, -954),
    (854, -1453, 1031, -299),
    (0, 0, 0, 0),
)
# Bits of the place within an interval.
_PLACE = 11
# h is 0 from here on: the number 4.
GELU_END = 8 << _PLACE
# Elements that are done together, so that what lies between stays in a cache.
_BLOCK = 16384


@cache
def gelu_table() -> I32:  # [GELU_END + 1]
    """h(t) of ``gelu_int32`` for t in [0, GELU_END], where it has become 0."""
    t = np.arange(GELU_END + 1)
    c = np.array(GELU_COEFFICIENTS)[t >> _PLACE]
    u = t & ((1 << _PLACE) - 1)
    h = c[:, 3]
    for i in (2, 1, 0):
        h = (h * u >> _PLACE) + c[:, i]
    table: I32 = ((h + 128) >> 8).astype(np.int32)
    return table


def gelu_int32(x: I32, out: I32 | None = None) -> I32:  # [...] -> [...]
    """GELU (with erf), within 0.62 steps of 2**-12; ``out`` is contiguous and may be ``x``.

    With t = |x|, i = min(t >> 11, 8) and u = t & 2047, h = (c0 + (u (c1 + (u (c2 + (u c3 >> 11))
    >> 11)) >> 11) + 128) >> 8, where shifts round down, and the result is max(x, 0) - h. All of it
    fits int32: u has 11 bits, a coefficient 20.
    """
    if out is None:
        out = np.empty(x.shape, np.int32)
    flat, result = x.reshape(-1), out.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        h = gelu_table().take(np.minimum(np.abs(flat[block]), GELU_END))
        np.maximum(flat[block], 0, out=result[block])
        result[block] -= h
    return out


def logits_float(x: I32, out: F32 | None = None) -> F32:  # [...] -> [...]
    """Fixed-point logits as float32, exact: magnitudes saturate at 2**24 - 1 steps (4096)."""
    steps = np.clip(x, -(2**24 - 1), 2**24 - 1)
    logits: F32 = np.multiply(steps, np.float32(2.0**-FRACTION), out=out, dtype=np.float32)
    return logits
