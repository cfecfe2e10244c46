"""GELU and softmax."""

from __future__ import annotations

import numpy as np

from whisper_npu.ops.arrays import F32

# gelu(x) = x/2 (1 + erf(x / sqrt 2)). With h = x/2 the bracket's erf is tanh(h g(h^2)) for a smooth
# g; these are the coefficients of a minimax fit of degree 6 on |x| <= 6, beyond which tanh has
# saturated in float32. Measured against the erf form in float64: 5.0e-7 at most on [-8, 8], where
# the spacing of float32 is 4.8e-7. NumPy has a vectorised tanh, but no erf.
_G = tuple(
    np.float32(c)
    for c in (
        1.59576843e00,
        2.90674263e-01,
        -1.06014788e-03,
        -7.07075287e-03,
        2.03219026e-03,
        -2.73299658e-04,
        1.47917273e-05,
    )
)
_SATURATED = np.float32(9.0)
_HALF = np.float32(0.5)
# Floats per block: five blocks of this size stay in a first- or second-level cache.
_BLOCK = 16384


def gelu(x: F32, out: F32 | None = None) -> F32:  # [...] -> [...]
    """Exact (erf) GELU of a contiguous float32 array; ``out`` may be ``x``."""
    if out is None:
        out = np.empty_like(x)
    flat, result = x.reshape(-1), out.reshape(-1)
    scratch = np.empty((3, min(_BLOCK, flat.size)), np.float32)
    for start in range(0, flat.size, _BLOCK):
        part = flat[start : start + _BLOCK]
        h, s, p = scratch[:, : part.size]
        np.multiply(part, _HALF, out=h)
        np.multiply(h, h, out=s)
        np.minimum(s, _SATURATED, out=s)
        np.multiply(s, _G[-1], out=p)
        for coefficient in _G[-2:0:-1]:
            p += coefficient
            p *= s
        p += _G[0]
        p *= h
        np.tanh(p, out=p)
        p *= h
        np.add(h, p, out=result[start : start + _BLOCK])
    return out


def softmax_rows(x: F32) -> F32:  # [..., n] -> [..., 1]
    """Replace rows by exp(x - max) and return the row sums, to divide by later.

    Dividing the small product of the weights with the values instead of the weights themselves
    saves a pass over the largest array of attention.
    """
    x -= x.max(axis=-1, keepdims=True)
    np.exp(x, out=x)
    total: F32 = x.sum(axis=-1, keepdims=True)
    return total
