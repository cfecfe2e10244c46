"""Attention of the integer network, to the bit as ``ops.attention_int`` specifies it, but faster.

Weights are looked up in tables of floats, so that sums of values follow without a conversion.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from whisper_npu.ops import attention_int as spec
from whisper_npu.ops.arrays import F32, I32, I64
from whisper_npu.ops.attention import split_heads
from whisper_npu.ops.fixed import ATTENTION_FRACTION, F64, FRACTION
from whisper_npu.runtime.workers import Workers, scratch_arrays, spans

# Query rows that a thread does together.
_ROWS = 96
# What queries and weights are divided by where float32 has to hold their products: with int8 keys
# the quotients and rests of queries of 15 bits sum up to less than 2**24 for 512 columns, those of
# weights of 13 bits with int8 values for 2,064 keys.
_RADIX = 128.0
LONGEST = 2064
WIDEST = 512


# Keys over which float32 holds sums of weights and values of 8 bits, and columns of int8 of which
# it holds scores.
_EXACT_KEYS = 512
WIDEST_INT8 = 1040


@cache
def _weights() -> F64:
    return spec.weight_table().astype(np.float64)


@cache
def _cut_weights() -> F32:
    """Weights and thresholds of ``spec.weights_int8`` over 32: the sums are cut off there."""
    return (spec.weight_table() / len(spec.THRESHOLDS)).astype(np.float32)


@cache
def _thresholds() -> F32:
    return (spec.THRESHOLDS / len(spec.THRESHOLDS)).astype(np.float32)


class _Window:
    """Attention of every window, by heads on several threads."""

    def __init__(
        self, q: I32, k: I32, v: I32, n_head: int, out: I32, workers: Workers
    ) -> None:  # [b, t, d], [b, t, d], [b, t, d] -> [b, t, d]
        b, t, d = q.shape
        self._workers, self._shape = workers, (t, d // n_head)
        # A head is one piece if that shares them out evenly, else several: its keys and values are
        # cut once for each piece.
        parts = 1 if b * n_head % workers.threads == 0 else 3
        heads = [split_heads(x, n_head) for x in (q, k, v, out)]
        self._pieces = [
            (*(head[index] for head in heads), rows)
            for index in np.ndindex(b, n_head)
            for rows in spans(t, parts)
        ]

    def __call__(self) -> None:
        self._workers.run(self._piece, len(self._pieces))

    def _piece(self, index: int) -> None:
        raise NotImplementedError


class WindowAttention(_Window):
    """``spec.attention_int32``."""

    def _piece(self, index: int) -> None:
        q, k, v, out, rows = self._pieces[index]
        t, d_head = self._shape
        count, size = rows.stop - rows.start, min(_ROWS, rows.stop - rows.start)
        block, narrow, places, keys, mixed, total = scratch_arrays(
            ((size, t), np.float64),
            ((size, t), np.int32),
            ((size, t), np.int64),
            ((d_head, t), np.float64),
            ((count, d_head), np.float64),
            ((count,), np.float64),
        )
        bits = spec.window_bits(d_head)
        cut, key_shift = spec.cut_keys(k, bits)
        np.copyto(keys, cut.T)
        values, value_shift = spec.cut_values(v)
        # Scores come out in units of distances, and with the other sign: the least is the best.
        queries, shift = spec.cut_queries(q[rows], bits)
        exponent = spec.DISTANCE_FRACTION - 2 * FRACTION + key_shift + shift
        queries *= -np.ldexp(1.0, exponent)[:, None]
        ones = np.ones(t)
        # Scores are below 2**30 in units of their own.
        large = exponent.max() > 0
        for start in range(0, count, _ROWS):
            part = slice(start, min(start + _ROWS, count))
            scores, z = block[: part.stop - start], narrow[: part.stop - start]
            np.matmul(queries[part], keys, out=scores)
            scores -= scores.min(axis=1, keepdims=True)
            if large:
                np.minimum(scores, spec.WEIGHT_END, out=scores)
            # Limits take a third of the time in int32.
            np.copyto(z, scores, casting="unsafe")
            np.minimum(z, spec.WEIGHT_END, out=z)
            index_of = places[: part.stop - start]
            np.copyto(index_of, z)
            # With "clip" nothing is copied on the way to ``out``.
            _weights().take(index_of, out=scores, mode="clip")
            # A product with ones is the fastest sum of rows.
            np.matmul(scores, ones, out=total[part])
            np.matmul(scores, values, out=mixed[part])
        factor = np.ldexp(2.0 ** (ATTENTION_FRACTION - FRACTION), value_shift)
        out[rows] = spec.divide(mixed, total, factor)


class WindowAttentionInt8(_Window):
    """``spec.attention_int8``, whose integers float32 holds."""

    def _piece(self, index: int) -> None:
        q, k, v, out, rows = self._pieces[index]
        t, d_head = self._shape
        count, size = rows.stop - rows.start, min(_ROWS, rows.stop - rows.start)
        block, wide, places, keys, mixed, total = scratch_arrays(
            ((size, t), np.float32),
            ((size, t), np.float64),
            ((size, t), np.int64),
            ((d_head, t), np.float32),
            ((count, d_head), np.float64),
            ((count,), np.float32),
        )
        key, key_scale = spec.quantized_head(k, axis=(0, 1))
        np.copyto(keys, key.T, casting="same_kind")
        value, value_scale = spec.quantized_head(v, axis=0)
        values = value.astype(np.float32)
        query, query_scale = spec.quantized_head(q[rows], axis=1)
        queries = query.astype(np.float32)
        unit = np.ldexp(*spec.distance_scale(query_scale, key_scale, d_head))
        thresholds, ones = np.resize(_thresholds(), t), np.ones(t, np.float32)
        for start in range(0, count, _ROWS):
            part = slice(start, min(start + _ROWS, count))
            n = part.stop - start
            scores, distances, z = block[:n], wide[:n], places[:n]
            np.matmul(queries[part], keys, out=scores)
            np.subtract(scores.max(axis=1, keepdims=True), scores, out=scores)
            # Below 2**58: an int64 holds them.
            np.multiply(scores, unit[part], out=distances)
            np.copyto(z, distances, casting="unsafe")
            # "clip" takes the last weight for all distances beyond it; and nothing is copied on the
            # way to ``out``.
            _cut_weights().take(z, out=scores, mode="clip")
            scores += thresholds
            np.floor(scores, out=scores)
            np.minimum(scores, spec.LARGEST_WEIGHT_INT8, out=scores)
            np.matmul(scores, ones, out=total[part])
            mixed[part] = 0.0
            for first in range(0, t, _EXACT_KEYS):
                some = slice(first, first + _EXACT_KEYS)
                mixed[part] += scores[:, some] @ values[some]
        wide_total = total.astype(np.float64)
        out[rows] = spec.divide(mixed, wide_total, value_scale * 2.0**ATTENTION_FRACTION)


@cache
def _halves_of_weights() -> tuple[F32, F32]:
    weights = spec.weight_table().astype(np.float32)
    high = np.rint(weights * np.float32(1 / _RADIX))
    return high, weights - high * np.float32(_RADIX)


class AudioAttention:
    """``spec.cross_attention_int32`` for few queries over keys and values that float32 holds."""

    def __init__(
        self, q: I32, k: F32, v: F32, k_scale: F32, v_scale: F32, slot: I64, out: I32
    ) -> None:
        # [w * g, n, h * dh], [slots, h, t, dh], ..., [slots, h, dh], ..., [w] -> [w * g, n, h * dh]
        n_head, together = k.shape[1], (len(slot), -1, q.shape[-1])
        self._queries, self._out = (split_heads(x.reshape(together), n_head) for x in (q, out))
        # One query at a time, as products with weights are.
        self._keys, self._values = k.transpose(0, 1, 3, 2)[:, :, None], v[:, :, None]
        self._scales, self._slot = (k_scale[:, :, None], v_scale[:, :, None]), slot

    def __call__(self) -> None:
        for queries, place, out in zip(self._queries, self._slot.tolist(), self._out, strict=True):
            self._window(queries, place, out)

    def _window(self, queries: I32, place: int, out: I32) -> None:  # [h, r, dh] -> [h, r, dh]
        k_scale, v_scale = (scale[place] for scale in self._scales)
        steps = np.multiply(k_scale, 2.0**FRACTION, dtype=np.float64)
        query, shift = spec.cut_queries(queries * steps, spec.QUERY_BITS)
        scores = self._scores(query, shift, place)
        scores -= scores.min(axis=-1, keepdims=True)
        np.minimum(scores, spec.WEIGHT_END, out=scores)
        z = scores.astype(np.int64)
        weights = np.empty((2, *z.shape[:-1], 1, z.shape[-1]), np.float32)
        for table, half in zip(_halves_of_weights(), weights, strict=True):
            table.take(z, out=half[..., 0, :], mode="clip")
        mixed = _joined(np.matmul(weights, self._values[place])[..., 0, :])
        total = _joined(np.add.reduce(weights[..., 0, :], axis=-1))
        factor = np.multiply(v_scale, 2.0**ATTENTION_FRACTION, dtype=np.float64)
        out[...] = spec.divide(mixed, total, factor)

    def _scores(self, query: F64, shift: I64, place: int) -> F64:
        # [h, r, dh], [h, r] -> [h, r, t]
        """Scores as z counts distances, with the other sign."""
        factor = -np.ldexp(1.0, spec.DISTANCE_FRACTION - 2 * FRACTION + shift)[..., None]
        halves = np.empty((2, *query.shape), np.float32)
        high = np.rint(query * (1 / _RADIX))
        np.multiply(high, factor, out=halves[0])
        high *= _RADIX
        np.multiply(query - high, factor, out=halves[1])
        return _joined(np.matmul(halves[..., None, :], self._keys[place])[..., 0, :])


def _joined(halves: F32) -> F64:  # [2, ...] -> [...]
    joined: F64 = np.multiply(halves[0], _RADIX, dtype=np.float64)
    joined += halves[1]
    return joined
