"""What attentions may err by, and queries that make it hard."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from whisper_npu.backends.cpu.op_case import EPSILON, Random
from whisper_npu.ops.arrays import F32
from whisper_npu.ops.attention import split_heads
from whisper_npu.runtime.backend import Array

# The bound in words, ``e`` aside.
WITHIN = "within: (16 + 4 s) e sum(p |v|), s the largest scale * sum(|q| |k|) of the query's keys"


def scaled_queries(rng: Random, *shape: int) -> Iterator[tuple[str, F32]]:
    """Queries: of scores near 0, of usual ones, and of some that leave all weight to few keys."""
    for factor in (0.01, 1, 6):
        yield f"times {factor}", rng.standard_normal(shape, np.float32) * np.float32(factor)


def attention_bound(q: F32, k: F32, v: F32, position: int | None = None) -> Array:
    """Roundings of scores, as relative errors of weights, times what these add up to.

    Keys of no weight add nothing.
    """
    group = len(q) // len(k)
    queries = split_heads(q, k.shape[1]).astype(np.float64) * k.shape[3] ** -0.5
    keys, values = (np.repeat(x.astype(np.float64), group, axis=0) for x in (k, v))
    scores = queries @ keys.transpose(0, 1, 3, 2)
    magnitude = np.abs(queries) @ np.abs(keys).transpose(0, 1, 3, 2)
    if position is not None:
        seen = np.arange(k.shape[2]) <= position + np.arange(q.shape[1])[:, None]
        scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    largest = np.where(weights > 0, magnitude, 0).max(axis=-1, keepdims=True)
    roundings = 16 + 4 * largest
    bound = EPSILON * roundings * (weights @ np.abs(values))
    merged: Array = bound.transpose(0, 2, 1, 3).reshape(q.shape)
    return merged
