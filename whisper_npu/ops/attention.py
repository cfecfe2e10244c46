"""Attention: over a whole window (encoder), over the decoder's own cache, over the audio."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from whisper_npu.ops.activation import softmax_rows
from whisper_npu.ops.arrays import F32

Scalar = TypeVar("Scalar", bound=np.generic)

# Query rows per block of encoder attention: with 1,500 keys a block of scores takes 0.75 MB and
# stays in the second-level cache through scaling, softmax and the product with the values.
QUERY_BLOCK = 125


def split_heads(
    x: NDArray[Scalar], n_head: int
) -> NDArray[Scalar]:  # [b, t, h * dh] -> [b, h, t, dh]
    """A view of ``x`` with the heads split off."""
    b, t, d = x.shape
    heads: NDArray[Scalar] = x.reshape(b, t, n_head, d // n_head).transpose(0, 2, 1, 3)
    return heads


def attention(
    q: F32, k: F32, v: F32, n_head: int, out: F32 | None = None, scores: F32 | None = None
) -> F32:  # [b, t, d], [b, t, d], [b, t, d] -> [b, t, d]
    """Full (unmasked) multi-head self-attention, heads merged.

    ``scores`` is scratch of at least [min(t, QUERY_BLOCK), t].
    """
    b, t, d = q.shape
    if out is None:
        out = np.empty_like(q)
    if scores is None:
        scores = np.empty((min(t, QUERY_BLOCK), t), np.float32)
    scale = np.float32((d // n_head) ** -0.5)
    queries, keys = split_heads(q, n_head), split_heads(k, n_head)
    values, result = split_heads(v, n_head), split_heads(out, n_head)
    for index in np.ndindex(b, n_head):
        key, value = keys[index].T, values[index]
        for start in range(0, t, QUERY_BLOCK):
            rows = slice(start, min(start + QUERY_BLOCK, t))
            block = scores[: rows.stop - rows.start]
            np.matmul(queries[index][rows] * scale, key, out=block)
            total = softmax_rows(block)
            np.divide(block @ value, total, out=result[index][rows])
    return out


def store_cache(x: F32, cache: F32, position: int) -> None:  # [b, n, h * dh], [b, h, ctx, dh]
    """Write the keys or values of n new tokens into a cache, from ``position`` on."""
    n = x.shape[1]
    cache[:, :, position : position + n] = split_heads(x, cache.shape[1])


def cached_attention(
    q: F32,
    k_cache: F32,
    v_cache: F32,
    position: int,
    out: F32 | None = None,
    scratch: F32 | None = None,
) -> F32:  # [b, n, h * dh], [b, h, ctx, dh], [b, h, ctx, dh] -> [b, n, h * dh]
    """Causal self-attention of n tokens at ``position`` over a cache that already holds them.

    ``scratch`` holds at least b * h * n * (position + n) floats.
    """
    n_head, length = k_cache.shape[1], position + q.shape[1]
    scores = _scores(split_heads(q, n_head), k_cache[:, :, :length], scratch)
    if q.shape[1] > 1:
        scores += _causal_mask(q.shape[1], position)
    return _weighted(scores, v_cache[:, :, :length], q, out)


def cross_attention(
    q: F32,
    k: F32,
    v: F32,
    out: F32 | None = None,
    scratch: F32 | None = None,
    heads: tuple[int, ...] = (),
    kept: F32 | None = None,
) -> F32:  # [a * g, n, h * dh], [a, h, t, dh], [a, h, t, dh] -> [a * g, n, h * dh]
    """Attention to the audio; the g sequences of each audio share its keys and values.

    With ``heads`` the scores before the softmax of those heads are copied to ``kept``,
    [len(heads), n, t] (for one sequence), from which word timestamps are found.
    ``scratch`` holds at least a * g * h * n * t floats.
    """
    n_audio, n_head = k.shape[:2]
    grouped = q.reshape(n_audio, -1, q.shape[-1])
    scores = _scores(split_heads(grouped, n_head), k, scratch)
    if kept is not None:
        np.take(scores[0], heads, axis=0, out=kept)
    merged = None if out is None else out.reshape(grouped.shape)
    return _weighted(scores, v, grouped, merged).reshape(q.shape)


def _scores(
    q: F32, k: F32, scratch: F32 | None
) -> F32:  # [b, h, n, dh], [b, h, t, dh] -> [b, h, n, t]
    b, h, n, dh = q.shape
    shape = (b, h, n, k.shape[2])
    out = None if scratch is None else scratch.reshape(-1)[: math.prod(shape)].reshape(shape)
    scores: F32 = np.matmul(q * np.float32(dh**-0.5), k.transpose(0, 1, 3, 2), out=out)
    return scores


def _weighted(
    scores: F32, v: F32, like: F32, out: F32 | None
) -> F32:  # [b, h, n, t], [b, h, t, dh], [b, n, h * dh] -> [b, n, h * dh]
    total = softmax_rows(scores)
    mixed = np.matmul(scores, v)
    mixed /= total
    if out is None:
        out = np.empty_like(like)
    split_heads(out, v.shape[1])[:] = mixed
    return out


def _causal_mask(n: int, position: int) -> F32:  # -> [n, position + n]
    future = np.arange(position + n) > np.arange(position, position + n)[:, None]
    mask: F32 = np.where(future, np.float32(-np.inf), np.float32(0))
    return mask
