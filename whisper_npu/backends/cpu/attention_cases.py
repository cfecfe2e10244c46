"""Inputs that verification gives to the attentions of the CPU, and the errors that it allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from whisper_npu.backends.cpu.case import EPSILON, Case, Random, integers
from whisper_npu.backends.numpy.specification import Array
from whisper_npu.model.graph import Op
from whisper_npu.ops.arrays import F32
from whisper_npu.ops.attention import QUERY_BLOCK, split_heads

# Of queries, keys and values, split by heads.
AttentionBound = Callable[[F32, F32, F32], Array]


def _scaled(rng: Random, *shape: int) -> Iterator[tuple[str, F32]]:
    """Queries: of scores near 0, of usual ones, and of some that leave all weight to few keys."""
    for factor in (0.01, 1, 6):
        yield f"times {factor}", rng.standard_normal(shape, np.float32) * np.float32(factor)


def attention(
    rng: Random,
    bound: AttentionBound,
    kernel: str | None = None,
    rms_share: float | None = None,
) -> Iterator[Case]:
    """Of whole windows, to be held against a bound."""
    for t, n_head, d_head in (
        (1, 1, 4),
        (5, 2, 8),
        (64, 3, 64),
        (65, 1, 16),
        (200, 2, 33),
        (311, 1, 64),
    ):
        op = Op("out", "attention", ("q", "k", "v"), ("out",), (("n_head", n_head),))
        shape = (2, t, n_head * d_head)
        for name, q in _scaled(rng, *shape):
            k, v = (rng.standard_normal(shape, np.float32) for _ in range(2))
            yield Case(
                f"{name} {shape}", op, (q, k, v), (np.empty_like(q),),
                np.empty((min(t, QUERY_BLOCK), t), np.float32),
                partial(bound, q, split_heads(k, n_head), split_heads(v, n_head)),
                kernel, rms_share,
            )  # fmt: skip


def attention_bound(q: F32, k: F32, v: F32, position: int | None = None) -> Array:
    """Roundings of scores, as relative errors of weights, times what these add up to."""
    group = len(q) // len(k)
    queries = split_heads(q, k.shape[1]).astype(np.float64) * k.shape[3] ** -0.5
    keys, values = (np.repeat(x.astype(np.float64), group, axis=0) for x in (k, v))
    scores = queries @ keys.transpose(0, 1, 3, 2)
    if position is not None:
        seen = np.arange(k.shape[2]) <= position + np.arange(q.shape[1])[:, None]
        scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    magnitude = np.abs(queries) @ np.abs(keys).transpose(0, 1, 3, 2)
    roundings = 16 + 4 * magnitude.max(axis=-1, keepdims=True)
    bound = EPSILON * roundings * (weights @ np.abs(values))
    merged: Array = bound.transpose(0, 2, 1, 3).reshape(q.shape)
    return merged


# Of attention_int16: the largest integer of weights and values, and the keys that share a scale.
_LARGEST_INTEGER = 5792
_BLOCK_KEYS = 64


def int16_bound(q: F32, k: F32, v: F32) -> Array:
    """Eight standard deviations of what rounding to integers does to an output.

    A rounding is off by a twelfth of its step squared, in the mean and by itself: of a query and a
    key with a step for each row, which move scores; of a weight with a step for its 64 keys; of a
    value with one for its column. A weight off by dw moves an output by dw (value - output).
    """
    d_head, t = q.shape[2] // k.shape[1], k.shape[2]
    queries = split_heads(q, k.shape[1]).astype(np.float64)
    keys, values = k.astype(np.float64), v.astype(np.float64)
    scores = queries @ keys.transpose(0, 1, 3, 2) * d_head**-0.5
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    step = 1 / min(32767.0, (2147483000 / d_head) ** 0.5 - 1)
    query_step = step * np.abs(queries).max(axis=-1, keepdims=True)
    key_step = step * np.abs(keys).max(axis=-1)[:, :, None]
    moved = query_step**2 * np.square(keys).sum(axis=-1)[:, :, None]
    moved = moved + key_step**2 * np.square(queries).sum(axis=-1, keepdims=True)
    off = np.square(weights) * moved / d_head
    for start in range(0, t, _BLOCK_KEYS):
        block = slice(start, start + _BLOCK_KEYS)
        top = weights[..., block].max(axis=-1, keepdims=True)
        off[..., block] += np.square(top / _LARGEST_INTEGER)
    mixed = weights @ values
    squares = off @ np.square(values) - 2 * mixed * (off @ values)
    squares += np.square(mixed) * off.sum(axis=-1, keepdims=True)
    value_step = np.abs(values).max(axis=2, keepdims=True) / _LARGEST_INTEGER
    squares += np.square(weights).sum(axis=-1, keepdims=True) * np.square(value_step)
    deviation = np.sqrt(np.maximum(squares, 0) / 12) + 2 * EPSILON * (weights @ np.abs(values))
    merged: Array = 8 * deviation.transpose(0, 2, 1, 3).reshape(q.shape)
    return merged


def cached_attention(rng: Random) -> Iterator[Case]:
    """Over caches with NaN behind what has been written; also of sequences that lie apart."""
    op = Op("out", "cached_attention", ("q", "k", "v", "position"), ("out",))
    for n_head, d_head, n, position in (
        (1, 4, 1, 0),
        (2, 64, 1, 37),
        (3, 33, 5, 0),
        (2, 16, 4, 60),
    ):
        for name, q in _scaled(rng, 4, n, n_head * d_head):
            # Behind what has been written lies what was left there.
            k, v = (rng.standard_normal((4, 2, n_head, 64, d_head), np.float32) for _ in range(2))
            for cache in (k, v):
                cache[:, :, :, position + n :] = np.nan
            first = [k[:, 0], v[:, 0]]
            for caches in ([np.ascontiguousarray(cache) for cache in first], first):
                yield Case(
                    f"{name} {q.shape} at {position}", op,
                    (q, *caches, np.array(position)), (np.empty_like(q),),
                    np.empty(4 * n_head * n * 64, np.float32),
                    partial(_cached_bound, q, caches[0], caches[1], position),
                )  # fmt: skip


def _cached_bound(q: F32, k: F32, v: F32, position: int) -> Array:
    seen = position + q.shape[1]
    return attention_bound(q, k[:, :, :seen], v[:, :, :seen], position)


# (n_head, d_head, n, t, sequences of a window)
_WINDOWS = ((1, 4, 1, 3, 1), (2, 64, 1, 300, 3), (3, 33, 5, 100, 2))


def cross_attention(rng: Random) -> Iterator[Case]:
    """Of several sequences to the keys and values of their window."""
    op = Op("out", "cross_attention", ("q", "k", "v"), ("out",), (("heads", ()),))
    for n_head, d_head, n, t, group in _WINDOWS:
        for name, q in _scaled(rng, 2 * group, n, n_head * d_head):
            k, v = (rng.standard_normal((2, n_head, t, d_head), np.float32) for _ in range(2))
            yield Case(
                f"{name} {q.shape} over {t}", op, (q, k, v), (np.empty_like(q),),
                np.empty(2 * group * n_head * n * t, np.float32),
                partial(attention_bound, q, k, v),
            )  # fmt: skip


def cross_attention_int8(rng: Random) -> Iterator[Case]:
    """The same over integers with scales."""
    names = ("q", "k", "v", "k_scale", "v_scale")
    op = Op("out", "cross_attention_int8", names, ("out",), (("heads", ()),))
    for n_head, d_head, n, t, group in _WINDOWS:
        shape = (2, n_head, t, d_head)
        for name, q in _scaled(rng, 2 * group, n, n_head * d_head):
            for of, k in integers(rng, shape):
                v = rng.integers(-127, 127, shape, np.int8, endpoint=True)
                # No two alike, so that one in the place of another is seen.
                k_scale, v_scale = rng.uniform(0.002, 0.02, (2, *shape[:3])).astype(np.float32)
                wide = (k * k_scale[..., None], v * v_scale[..., None])
                yield Case(
                    f"{name}, {of} keys, {q.shape} over {t}", op, (q, k, v, k_scale, v_scale),
                    (np.empty_like(q),), np.empty(2 * group * n_head * n * t, np.float32),
                    partial(attention_bound, q, *wide),
                )  # fmt: skip
