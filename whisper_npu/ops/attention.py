"""Attention: over a whole window (encoder), over the decoder's own cache, over the audio."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from whisper_npu.ops.activation import softmax_rows
from whisper_npu.ops.arrays import F32, I64

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


def own_caches(
    cache: Any, position: I64, slot: I64, sequences: int
) -> Iterator[tuple[int, Any]]:  # [slots, members, h, ctx, dh], [w], [w] -> of each sequence
    """For each of so many sequences, window by window: where its first new token lies in its own
    cache, and that cache, [h, ctx, dh]. Window i has slot[i], and sequence j of it member j."""
    group = sequences // len(slot)
    for first, place in zip(position.tolist(), slot.tolist(), strict=True):
        for member in range(group):
            yield first, cache[place, member]


def store_cache(
    x: F32, cache: F32, position: I64, slot: I64
) -> None:  # [b, n, h * dh], [slots, members, h, ctx, dh], [w], [w]
    """Write the keys or values of n new tokens of each sequence into its cache, from ``position``
    of its window on."""
    n = x.shape[1]
    for new, (first, own) in zip(x, own_caches(cache, position, slot, len(x)), strict=True):
        own[:, first : first + n] = split_heads(new[None], cache.shape[2])[0]


def cached_attention(
    q: F32,
    k_cache: F32,
    v_cache: F32,
    position: I64,
    slot: I64,
    out: F32 | None = None,
    scratch: F32 | None = None,
) -> F32:  # [b, n, h * dh], [slots, members, h, ctx, dh] of each, [w], [w] -> [b, n, h * dh]
    """Causal self-attention of n tokens of each sequence, at ``position`` of its window, over its
    cache, which already holds them.

    ``scratch`` holds at least h * n * ctx floats.
    """
    out = np.empty_like(q) if out is None else out
    n, n_head = q.shape[1], k_cache.shape[2]
    keys = own_caches(k_cache, position, slot, len(q))
    values = own_caches(v_cache, position, slot, len(q))
    for query, result, (first, k), (_, v) in zip(q, out, keys, values, strict=True):
        length = first + n
        scores = _scores(split_heads(query[None], n_head), k[None, :, :length], scratch)
        if n > 1:
            scores += _causal_mask(n, first)
        _weighted(scores, v[None, :, :length], result[None])
    return out


def cross_attention(
    q: F32,
    k: F32,
    v: F32,
    slot: I64,
    out: F32 | None = None,
    scratch: F32 | None = None,
    heads: tuple[int, ...] = (),
    kept: F32 | None = None,
) -> F32:  # [w * g, n, h * dh], [slots, h, t, dh], [slots, h, t, dh], [w] -> [w * g, n, h * dh]
    """Attention to the audio; the g sequences of each window share the keys and values of its slot.

    With ``heads`` the scores before the softmax of those heads are copied to ``kept``,
    [len(heads), n, t] (for one sequence), from which word timestamps are found.
    ``scratch`` holds at least g * h * n * t floats.
    """
    out = np.empty_like(q) if out is None else out
    n_head, together = k.shape[1], (len(slot), -1, q.shape[-1])
    for query, result, place in zip(
        q.reshape(together), out.reshape(together), slot.tolist(), strict=True
    ):
        scores = _scores(split_heads(query[None], n_head), k[place][None], scratch)
        if kept is not None:
            np.take(scores[0], heads, axis=0, out=kept)
        _weighted(scores, v[place][None], result[None])
    return out


def _scores(
    q: F32, k: F32, scratch: F32 | None
) -> F32:  # [b, h, n, dh], [b, h, t, dh] -> [b, h, n, t]
    b, h, n, dh = q.shape
    shape = (b, h, n, k.shape[2])
    out = None if scratch is None else scratch.reshape(-1)[: math.prod(shape)].reshape(shape)
    scores: F32 = np.matmul(q * np.float32(dh**-0.5), k.transpose(0, 1, 3, 2), out=out)
    return scores


def _weighted(scores: F32, v: F32, out: F32) -> None:
    # [b, h, n, t], [b, h, t, dh] -> [b, n, h * dh]
    total = softmax_rows(scores)
    mixed = np.matmul(scores, v)
    mixed /= total
    split_heads(out, v.shape[1])[:] = mixed


def _causal_mask(n: int, position: int) -> F32:  # -> [n, position + n]
    future = np.arange(position + n) > np.arange(position, position + n)[:, None]
    mask: F32 = np.where(future, np.float32(-np.inf), np.float32(0))
    return mask
