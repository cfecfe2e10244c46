"""Layer norms: two in int8 with an integer square root, one in bfloat16."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from whisper_npu.backends.npu.dtypes import rounded
from whisper_npu.ops.arrays import F32, I8, I32, U16, widen_bfloat16

from .integers import clamp_int8, divide_toward_zero, square_root

# First estimate of 1/sqrt(x) from the bits of x.
_MAGIC = np.int32(0x5F3759DF)
_HALF, _THREE_HALVES = np.float32(0.5), np.float32(1.5)
# 1e-5 as a bfloat16.
_BFLOAT16_EPS = np.float32(1.0013580322265625e-05)


def int8_256(packed: I8) -> I8:  # [..., 768] -> [..., 256]
    """x, gamma and beta of 256 behind one another; quotients have 7 bits after the point."""
    x, gamma, beta = np.split(packed, 3, axis=-1)
    return _int8(x, gamma, beta, epsilon=1, shift=8)


def int8_512(x: I8, gamma: I8, beta: I8) -> I8:  # [..., 512] three times -> [..., 512]
    """The quotient is shifted by 15: nothing but its sign is left of it."""
    return _int8(x, gamma, beta, epsilon=128, shift=15)


def _int8(x: I8, gamma: I8, beta: I8, epsilon: int, shift: int) -> I8:
    n = x.shape[-1]
    wide = x.astype(np.int64)
    mean = divide_toward_zero(wide.sum(axis=-1, keepdims=True), n)
    centred = wide - mean
    variance = (centred * centred).sum(axis=-1, keepdims=True) // n
    reciprocal = (128 * 256) // square_root(variance + epsilon)
    normal = (centred * reciprocal) >> shift
    return clamp_int8(((gamma * normal) >> 7) + beta)


def bfloat16_512(x: U16) -> U16:  # [..., 512] -> [..., 512]
    """No gain and no bias; 1/sqrt by two Newton steps. Values are bfloat16 in uint16.

    Rounds to nearest even at the end; how the core rounds is not known.
    """
    wide = widen_bfloat16(x)
    mean = _sum(wide) / np.float32(512)
    centred = wide - mean
    variance = _sum(centred * centred) / np.float32(512)
    return rounded(centred * _inverse_square_root(variance + _BFLOAT16_EPS))


def bfloat16_512_magnitude(x: U16) -> NDArray[np.float64]:  # [..., 512] -> [..., 512]
    """What each output of ``bfloat16_512`` is added up from, all signs taken as plus."""
    wide = widen_bfloat16(x).astype(np.float64)
    deviation = np.sqrt(wide.var(axis=-1, keepdims=True) + _BFLOAT16_EPS)
    size = np.abs(wide)
    magnitude: NDArray[np.float64] = (size + size.mean(axis=-1, keepdims=True)) / deviation
    return magnitude


def _sum(x: F32) -> F32:  # [..., n] -> [..., 1]
    """In order and rounded to float32 at every step, as a loop does it."""
    return np.cumsum(x, axis=-1, dtype=np.float32)[..., -1:]


def _inverse_square_root(x: F32) -> F32:
    half = _HALF * x
    bits: I32 = x.view(np.int32)
    y: F32 = (_MAGIC - (bits >> 1)).view(np.float32)
    for _ in range(2):
        y = y * (_THREE_HALVES - half * y * y)
    return y
