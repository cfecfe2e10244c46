"""One head of attention on one tile: int8 queries, keys and values, three kinds of softmax.

All weights of a row share 127 units. Scores are scaled by a shift to the right; which real number a
score then stands for follows from the exponential.
"""

from __future__ import annotations

import math

import numpy as np

from whisper_npu.ops.arrays import I8, I64

from .integers import clamp_int8, matmul

UNITS = 127
_SIMPLE_SHIFT = 4
_TILE_SHIFT = 4
_MULTICORE_SHIFT = 3
_INT32_SCORE_SHIFT = 8
_EXP_BITS = 20

# By model: how far it shifts a score to the right, and the shifted score that stands for 1.
SCORE_UNITS = {
    "attention.simple_16x16": (_SIMPLE_SHIFT, 64),
    "attention.tile_64x64": (_TILE_SHIFT, 32),
    "attention.tile_64x64_int32": (_TILE_SHIFT, 1 << _INT32_SCORE_SHIFT),
    "attention.multicore_64x64": (_MULTICORE_SHIFT, 32),
}

# exp(-i) with 20 bits after the point, cut off; never less than 1. No product lies within 1e-3 of
# an integer but the first.
_EXP = np.array([max(1, int(math.exp(-i) * 2**_EXP_BITS)) for i in range(128)], np.int64)


def simple_16x16(qkv: I8) -> I8:  # [..., 768] -> [..., 256]
    """Q, K and V [16, 16] behind one another; exp(x/64) as 64 + x + x^2/128 down to x = -64."""
    q, k, v = _split(qkv, 16)
    weights = _polynomial_16(_int8_scores(q, k, _SIMPLE_SHIFT))
    return _flat(clamp_int8(matmul(weights, v) >> 7))


def tile_64x64(qkv: I8) -> I8:  # [..., 12288] -> [..., 4096]
    """Q, K and V [64, 64]; scores clamped to int8 before an exponential in three pieces."""
    return _tile_64x64(qkv, _TILE_SHIFT)


def tile_64x64_int32(qkv: I8) -> I8:  # [..., 12288] -> [..., 4096]
    """As ``tile_64x64`` with scores in int32 and a table of exp at the integers 0 ... -127."""
    q, k, v = _split(qkv, 64)
    scores = matmul(q, k.swapaxes(-1, -2)) >> _TILE_SHIFT
    return _rounded_mix(_table(scores), v)


def multicore_64x64(
    qkv_0: I8, qkv_1: I8, qkv_2: I8, qkv_3: I8
) -> tuple[I8, I8, I8, I8]:  # [..., 12288] four times -> [..., 4096] four times
    """Four independent tiles, one in each column, with scores shifted by 3."""
    return (
        _tile_64x64(qkv_0, _MULTICORE_SHIFT),
        _tile_64x64(qkv_1, _MULTICORE_SHIFT),
        _tile_64x64(qkv_2, _MULTICORE_SHIFT),
        _tile_64x64(qkv_3, _MULTICORE_SHIFT),
    )


def _tile_64x64(qkv: I8, shift: int) -> I8:
    q, k, v = _split(qkv, 64)
    return _rounded_mix(_pieces_64(_int8_scores(q, k, shift)), v)


def _split(qkv: I8, size: int) -> tuple[I8, I8, I8]:
    q, k, v = np.moveaxis(qkv.reshape(*qkv.shape[:-1], 3, size, size), -3, 0)
    return q, k, v


def _flat(x: I8) -> I8:  # [..., n, n] -> [..., n * n]
    return x.reshape(*x.shape[:-2], -1)


def _int8_scores(q: I8, k: I8, shift: int) -> I64:
    return clamp_int8(matmul(q, k.swapaxes(-1, -2)) >> shift).astype(np.int64)


def _below_maximum(scores: I64) -> I64:
    below: I64 = scores - scores.max(axis=-1, keepdims=True)
    return below


def _polynomial_16(scores: I64) -> I64:
    x = np.maximum(_below_maximum(scores), -64)
    exp = 64 + x + x * x // 128
    weights: I64 = exp * UNITS // exp.sum(axis=-1, keepdims=True)
    return weights


def exponential_pieces(x: I64) -> I64:
    """exp of ``tile_64x64`` for -127 <= x <= 0. It rises again from 1 at -39 to 157 at -40."""
    near = np.maximum(256 + (x << 3) + (((x * x) >> 5) >> 1), 1)
    middle = 65536 // (256 + (-x << 2))
    return np.where(x <= -80, 1, np.where(x <= -40, middle, near))


def _pieces_64(scores: I64) -> I64:
    exp = exponential_pieces(np.maximum(_below_maximum(scores), -127))
    total = exp.sum(axis=-1, keepdims=True)
    weights: I64 = (exp * UNITS + (total >> 1)) // total
    return weights


def _table(scores: I64) -> I64:
    index = -np.maximum(_below_maximum(scores) >> _INT32_SCORE_SHIFT, -127)
    exp = _EXP[index]
    # Ten bits are dropped to keep the product in 32 bits; the largest weight keeps the sum from 0.
    total = exp.sum(axis=-1, keepdims=True) >> 10
    weights: I64 = (exp >> 10) * UNITS // total
    return weights


def _rounded_mix(weights: I64, v: I8) -> I8:
    mixed = matmul(weights, v)
    return _flat(clamp_int8((mixed + np.where(mixed >= 0, 64, -64)) >> 7))
