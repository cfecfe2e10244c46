"""Attention in integers: over a window (encoder), over the decoder's own cache, over the audio.

Queries are fixed-point numbers that already hold ``d_head**-0.5 * log2(e)``, so that a softmax is
made of powers of two. Queries, keys and values are cut to few bits by shifts, sums of products are
exact, and so is the largest score of a query. Its weights are

    2^-d for d = (largest score - score), cut to a multiple of 2^-12 below 16,

as integers of 13 bits. ``attention_int8`` rounds them to 8 bits with a threshold that depends on
the place of the key. Any order of work gives the same integers. What comes out has
ATTENTION_FRACTION fraction bits.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from whisper_npu.ops.arrays import F32, I8, I16, I32, I64
from whisper_npu.ops.attention import own_caches, split_heads
from whisper_npu.ops.fixed import (
    ATTENTION_FRACTION,
    F64,
    FRACTION,
    saturate,
)
from whisper_npu.ops.rows import LARGEST_INT8, quantizer

# Fraction bits of the distance of a score from the largest, and of weights.
DISTANCE_FRACTION = 12
WEIGHT_BITS = 13
LARGEST_WEIGHT = 2**WEIGHT_BITS - 1
# The distance from which on weights are 0: half a unit of 13 bits.
WEIGHT_END = (WEIGHT_BITS + 1) << DISTANCE_FRACTION
# 32764 * 2^-g for g in [0, 1) with 15 fraction bits, as c0 + g (c1 + g (c2 + g c3)) where products
# are rounded to 15 fraction bits: within 3.3 of it. 32764 becomes the largest weight.
EXPONENTIAL = (32764, -22658, 7568, -1294)
# Bits that weights of 8 bits lack, and the least of them that rounds up, by the key's place modulo
# 32: the numbers of 5 bits, each reversed, so that neighbours differ much.
_CUT_BITS = 5
THRESHOLDS = np.array([int(f"{place:05b}"[::-1], 2) for place in range(2**_CUT_BITS)])
LARGEST_WEIGHT_INT8 = 255
# Fraction bits of keys and values in the decoder's own cache.
CACHE_FRACTION = 9
_CACHE_SHIFT = FRACTION - CACHE_FRACTION
# Bits of a query over a cache, its sign not counted.
QUERY_BITS = 15
# Bits of cached keys and values of the audio.
CROSS_BITS = 7
# Bits of what a sum of weights is divided by.
_RECIPROCAL_BITS = 16
# Query rows per block of scores.
_ROWS = 125


def window_bits(d_head: int) -> int:
    """Bits of queries and keys of a window, the sign not counted: d_head products fit 30 bits."""
    return min((30 - (d_head - 1).bit_length()) // 2, 15)


def _times(a: I64, b: I64 | int) -> I64:
    """The product of numbers with 15 fraction bits, rounded half up."""
    return (a * b + 2**14) >> 15


@cache
def weight_table() -> I64:  # [WEIGHT_END + 1]
    """Weights by z of ``weights_of``, up to the first beyond which all are 0."""
    z = np.arange(WEIGHT_END + 1)
    n, g = z >> DISTANCE_FRACTION, (z & (2**DISTANCE_FRACTION - 1)) << 3
    c0, c1, c2, c3 = EXPONENTIAL
    power = c0 + _times(g, c1 + _times(g, c2 + _times(g, c3)))
    # 2^(13 - n) with 15 fraction bits: 0 for n = 14.
    return _times(power, np.int64(2**WEIGHT_BITS) >> n)


def weights_of(scores: F64, exponent: I64) -> I64:  # [..., n], [...] -> [..., n]
    """Weights of scores that stand for ``scores * 2**-exponent``, in log2 units.

    -inf gives 0. With z = floor(d 2^12) for a distance d below the largest score, n = z >> 12 and
    g = z & 4095, a weight is 2^-g with 15 fraction bits, shifted down by n + 2 bits and rounded
    half up: 0 from n = 14 on. Against 8191 2^-d a weight errs by a share of at most 2.8e-4 (1.7e-4
    is cut off a distance, 1.1e-4 is the polynomial's) and by half a unit.
    """
    distance = scores.max(axis=-1, keepdims=True) - scores
    distance *= np.ldexp(1.0, DISTANCE_FRACTION - exponent)[..., None]
    np.minimum(distance, WEIGHT_END, out=distance)
    # A conversion to integers rounds towards zero.
    weights: I64 = weight_table().take(distance.astype(np.int64))
    return weights


def weights_int8(weights: I64) -> I64:  # [..., n] -> [..., n]
    """Weights of 13 bits as integers of 8 bits, at most 255: ordered dithering.

    A weight w of key j is ``min((w + THRESHOLDS[j % 32]) >> 5, 255)``. Every threshold occurs once
    in 32 neighbouring keys: of many small weights that are alike, as many become 1 as keep their
    sum. Rounded to the nearest, all of them would be lost. (Ordered dithering: Bayer 1973; the
    thresholds are van der Corput's sequence.)
    """
    thresholds = np.resize(THRESHOLDS, weights.shape[-1])
    cut: I64 = np.minimum((weights + thresholds) >> _CUT_BITS, LARGEST_WEIGHT_INT8)
    return cut


def divide(mixed: F64, total: I64 | F64, factor: F64 | float) -> I32:  # [..., dh], [...], [..., dh]
    """``sat(rint(mixed * r * factor))``: weighted sums over the sum of weights, as int32.

    r = floor(2^(15 + b) / total) / 2^(15 + b) for a total of b bits. With values of v bits, its
    numerator times ``mixed`` is 2^(15 + b + v) at most, and fits 53 bits: v = 15 over up to 1024
    cached keys, v = 12 over up to 8192 of a window. ``factor`` holds powers of two.
    """
    places = np.frexp(total)[1] + (_RECIPROCAL_BITS - 1)
    # A quotient of 16 bits is further from the next integer than float64 rounds.
    reciprocal = np.ldexp(np.floor(np.ldexp(1.0, places) / total), -places)
    quotient = mixed * reciprocal[..., None]
    quotient *= factor
    return saturate(np.rint(quotient, out=quotient))


def shift_of(largest: I32 | F64, bits: int) -> I64:  # [...] -> [...]
    """How far whole numbers must be shifted down to have so many bits."""
    shift: I64 = np.maximum(np.frexp(largest)[1] - bits, 0)
    return shift


def _shift(x: I32 | F64, bits: int) -> I64:  # [..., n] -> [...]
    return shift_of(np.abs(x).max(axis=-1), bits)


def _cut(x: I32 | F64, shift: I64, bits: int) -> F64:  # [..., n], [...] -> [..., n]
    """``floor(x / 2**shift + 1/2)``, at most ``2**bits - 1``; exact where x has 31 bits."""
    cut: F64 = np.multiply(x, np.ldexp(1.0, -shift)[..., None])
    cut += 0.5
    np.floor(cut, out=cut)
    np.minimum(cut, 2**bits - 1, out=cut)
    return cut


def attention_int32(
    q: I32, k: I32, v: I32, n_head: int, out: I32 | None = None
) -> I32:  # [b, t, d], [b, t, d], [b, t, d] -> [b, t, d]
    """Unmasked multi-head self-attention of each window, heads merged.

    Of each head, keys are cut to window_bits by a shift that is common to its window, values to 12
    bits, and every query to window_bits by a shift of its own; keys are rounded down (what that
    takes off is the same for all keys of a query), the others to the nearest.
    """
    b, t, d = q.shape
    if out is None:
        out = np.empty_like(q)
    bits = window_bits(d // n_head)
    queries, keys = split_heads(q, n_head), split_heads(k, n_head)
    values, result = split_heads(v, n_head), split_heads(out, n_head)
    for index in np.ndindex(b, n_head):
        key, key_shift = cut_keys(keys[index], bits)
        value, value_shift = cut_values(values[index])
        factor = np.ldexp(2.0 ** (ATTENTION_FRACTION - FRACTION), value_shift)
        for start in range(0, t, _ROWS):
            query, shift = cut_queries(queries[index][start : start + _ROWS], bits)
            scores = query @ key.T
            weights = weights_of(scores, 2 * FRACTION - shift - key_shift)
            mixed = weights.astype(np.float64) @ value
            result[index][start : start + _ROWS] = divide(mixed, weights.sum(axis=-1), factor)
    return out


def cut_queries(x: I32 | F64, bits: int) -> tuple[F64, I64]:  # [..., dh] -> [..., dh], [...]
    """Every query rounded to so many bits by a shift of its own, and the shifts."""
    shift = _shift(x, bits)
    return _cut(x, shift, bits), shift


def cut_keys(x: I32, bits: int) -> tuple[F64, I64]:  # [t, dh] -> [t, dh], []
    """All keys of a head rounded down to so many bits, and by how much they are shifted."""
    shift = _shift(x.reshape(-1), bits)
    cut = x * np.ldexp(1.0, -shift)
    return np.floor(cut, out=cut), shift


def cut_values(x: I32) -> tuple[F64, I64]:  # [t, dh] -> [t, dh], []
    """All values of a head rounded to 12 bits, and by how much they are shifted."""
    shift = _shift(x.reshape(-1), WEIGHT_BITS - 1)
    return _cut(x, shift, WEIGHT_BITS - 1), shift


def quantized_head(x: I32, axis: tuple[int, ...] | int) -> tuple[F64, F64]:
    # [t, dh] -> [t, dh], [1, 1] or [t, 1] or [1, dh]
    """Numbers as int8 with one scale for all along ``axis``, as ``rows.quantize_int32`` of rows."""
    largest = np.abs(x).max(axis=axis, keepdims=True).astype(np.int64)
    reciprocal, scale = quantizer(largest, LARGEST_INT8, FRACTION)
    return np.rint(x * reciprocal), scale


def distance_scale(q_scale: F64, k_scale: F64 | float, d_head: int) -> tuple[I64, I64]:
    # [...], [...] -> [...], [...]
    """A distance of scores with these scales is ``(m * distance) * 2**e`` in units of 2**-12.

    The product of both scales, 16 bits, is rounded half up to so many bits that m times the largest
    distance, 2 * 127^2 * d_head, has 31: 10 bits where d_head is 64.
    """
    bits = 31 - (2 * LARGEST_INT8**2 * d_head).bit_length()
    fraction, exponent = np.frexp(q_scale * k_scale)
    m = np.floor(np.ldexp(fraction, bits) + 0.5).astype(np.int64)
    return m, exponent.astype(np.int64) - bits + DISTANCE_FRACTION


def attention_int8(
    q: I32, k: I32, v: I32, n_head: int, out: I32 | None = None
) -> I32:  # [b, t, d], [b, t, d], [b, t, d] -> [b, t, d]
    """Unmasked multi-head self-attention of each window in products of 8 bits, heads merged.

    Of each head and window, keys become int8 with one scale, every query with one of its own, and
    every column of values with one of its own. Weights have 8 bits (``weights_int8``). With up to
    8192 keys, sums of weighted values have 28 bits, and 52 with a reciprocal and a scale.
    """
    b, t, d = q.shape
    d_head = d // n_head
    if out is None:
        out = np.empty_like(q)
    queries, keys = split_heads(q, n_head), split_heads(k, n_head)
    values, result = split_heads(v, n_head), split_heads(out, n_head)
    for index in np.ndindex(b, n_head):
        key, key_scale = quantized_head(keys[index], axis=(0, 1))
        value, value_scale = quantized_head(values[index], axis=0)
        factor = value_scale * 2.0**ATTENTION_FRACTION
        for start in range(0, t, _ROWS):
            query, query_scale = quantized_head(queries[index][start : start + _ROWS], axis=1)
            m, e = distance_scale(query_scale, key_scale, d_head)
            scores = query @ key.T
            distance = scores.max(axis=-1, keepdims=True) - scores
            z = np.minimum(np.ldexp(distance * m, e), WEIGHT_END).astype(np.int64)
            weights = weights_int8(weight_table()[z])
            mixed = weights.astype(np.float64) @ value
            result[index][start : start + _ROWS] = divide(mixed, weights.sum(axis=-1), factor)
    return out


def store_int16(
    x: I32, cache: I16, position: I64, slot: I64
) -> None:  # [b, n, h * dh], [slots, members, h, ctx, dh], [w], [w]
    """Write keys or values of n new tokens of each sequence into its cache, from ``position`` of
    its window on.

    They get CACHE_FRACTION: rounded to the nearest, saturated at plus or minus 32767 (64).
    """
    n = x.shape[1]
    largest = (2**15 - 1) << _CACHE_SHIFT
    steps = np.maximum(x, -largest)
    np.minimum(steps, largest, out=steps)
    steps += 1 << (_CACHE_SHIFT - 1)
    steps >>= _CACHE_SHIFT
    for new, (first, own) in zip(steps, own_caches(cache, position, slot, len(x)), strict=True):
        own[:, first : first + n] = split_heads(new[None], cache.shape[2])[0]


def cached_attention_int16(
    q: I32, k_cache: I16, v_cache: I16, position: I64, slot: I64, out: I32 | None = None
) -> I32:  # [b, n, h * dh], [slots, members, h, ctx, dh] of each, [w], [w] -> [b, n, h * dh]
    """Causal self-attention of n tokens of each sequence, at ``position`` of its window, over its
    cache, which already holds them.

    Every query of a head is cut to 15 bits by a shift of its own; scores have up to 37 bits.
    """
    out = np.empty_like(q) if out is None else out
    n, n_head = q.shape[1], k_cache.shape[2]
    queries, shifts = cut_queries(split_heads(q, n_head), QUERY_BITS)
    factor = 2.0 ** (ATTENTION_FRACTION - CACHE_FRACTION)
    keys = own_caches(k_cache, position, slot, len(q))
    values = own_caches(v_cache, position, slot, len(q))
    for query, shift, result, (first, k), (_, v) in zip(
        queries, shifts, split_heads(out, n_head), keys, values, strict=True
    ):
        length = first + n
        scores = query @ k[:, :length].astype(np.float64).transpose(0, 2, 1)
        if n > 1:
            future = np.arange(length) > np.arange(first, length)[:, None]
            scores[:, future] = -np.inf
        weights = weights_of(scores, FRACTION + CACHE_FRACTION - shift)
        mixed = weights.astype(np.float64) @ v[:, :length].astype(np.float64)
        result[...] = divide(mixed, weights.sum(axis=-1), factor)
    return out


def quantize_columns(
    x: I32, values: I8, scale: F32
) -> None:  # [b, t, h * dh] -> [b, h, t, dh], [b, h, dh]
    """Keys or values of the audio: int8 with a power of two for each column of each window.

    scale = 2^(s - FRACTION) with s = max(0, bits of the column's largest magnitude - 7); values are
    rounded to the nearest, within [-127, 127].
    """
    columns = x.transpose(0, 2, 1)
    shift = _shift(columns, CROSS_BITS)
    cut = np.maximum(_cut(columns, shift, CROSS_BITS), -127)
    values[...] = split_heads(cut.transpose(0, 2, 1), values.shape[1])
    scale[...] = np.ldexp(1.0, shift - FRACTION).reshape(scale.shape)


def cross_attention_int32(
    q: I32,
    k: NDArray[np.generic],
    v: NDArray[np.generic],
    k_scale: F32,
    v_scale: F32,
    slot: I64,
    out: I32 | None = None,
    heads: tuple[int, ...] = (),
    kept: F32 | None = None,
) -> I32:
    # [w * g, n, h * dh], [slots, h, t, dh], ..., [slots, h, dh], ..., [w] -> [w * g, n, h * dh]
    """Attention to the audio; the g sequences of each window share the keys and values of its slot.

    ``k`` and ``v`` hold int8, in any dtype. Scales of keys are part of the query, which is then cut
    to 15 bits by a shift of its own. With ``heads`` the scores of those heads, in natural units,
    are written to ``kept``, [len(heads), n, t] (for one sequence).
    """
    out = np.empty_like(q) if out is None else out
    n_head, together = k.shape[1], (len(slot), -1, q.shape[-1])
    queries, results = (split_heads(x.reshape(together), n_head) for x in (q, out))
    for grouped, result, place in zip(queries, results, slot.tolist(), strict=True):
        # In units of the keys' smallest steps, 2^-FRACTION.
        steps = np.float64(2.0**FRACTION) * k_scale[place][:, None]
        query, shift = cut_queries(grouped * steps, QUERY_BITS)
        keys, values = (x[place].astype(np.float64) for x in (k, v))
        scores = query @ keys.transpose(0, 2, 1)
        exponent = 2 * FRACTION - shift
        if kept is not None:
            natural = np.ldexp(math.log(2.0), -exponent)[..., None]
            chosen = list(heads)
            np.multiply(scores[chosen], natural[chosen], out=kept, casting="same_kind")
        weights = weights_of(scores, exponent)
        factor = np.float64(2.0**ATTENTION_FRACTION) * v_scale[place][:, None]
        result[...] = divide(weights.astype(np.float64) @ values, weights.sum(axis=-1), factor)
    return out
