"""Attention of a whole window, faster than its specification in ``ops.attention``."""

from __future__ import annotations

import math

import numpy as np

from whisper_npu.ops import attention as spec
from whisper_npu.ops.activation import softmax_rows
from whisper_npu.ops.arrays import F32
from whisper_npu.runtime.workers import Workers, scratch, spans

# Query rows per block: with 1,500 keys a block of scores takes 0.58 MB and stays in the
# second-level cache, together with the keys of the head, through exponential, sums and product.
QUERY_BLOCK = 96
# Sums of exponentials outside of these have lost something to overflow or to denormal numbers.
_SMALLEST, _LARGEST = np.float32(1e-28), np.float32(1e30)


class WindowAttention:
    """Self-attention over whole windows, by heads on several threads; see ``ops.attention``."""

    def __init__(
        self, q: F32, k: F32, v: F32, n_head: int, out: F32, workers: Workers
    ) -> None:  # [b, t, d], [b, t, d], [b, t, d] -> [b, t, d]
        b, t, d = q.shape
        self._workers, self._t, self._d_head = workers, t, d // n_head
        # exp2 takes half the time of exp: the base changes along with the scaling of the queries.
        self._scale = np.float32((d // n_head) ** -0.5 / math.log(2))
        self._ones = np.ones(t, np.float32)
        # A head is one piece if that shares them out evenly, else several: its keys are turned
        # round once for each piece.
        parts = 1 if b * n_head % workers.threads == 0 else 3
        heads = [spec.split_heads(x, n_head) for x in (q, k, v, out)]
        self._pieces = [
            (*(head[index] for head in heads), rows)
            for index in np.ndindex(b, n_head)
            for rows in spans(t, parts)
        ]

    def __call__(self) -> None:
        self._workers.run(self._piece, len(self._pieces))

    def _piece(self, index: int) -> None:
        q, k, v, out, rows = self._pieces[index]
        t, d_head = self._t, self._d_head
        size = min(QUERY_BLOCK, rows.stop - rows.start)
        keys, queries, block, mixed, total = scratch(
            (d_head, t), (size, d_head), (size, t), (size, d_head), (size,)
        )
        # Contiguous rows of keys make the product with them a quarter faster.
        np.copyto(keys, k.T)
        for start in range(rows.start, rows.stop, QUERY_BLOCK):
            part = slice(start, min(start + QUERY_BLOCK, rows.stop))
            n = part.stop - part.start
            scaled, scores, weighted, sums = queries[:n], block[:n], mixed[:n], total[:n]
            np.multiply(q[part], self._scale, out=scaled)
            np.matmul(scaled, keys, out=scores)
            # Scores are rarely so large that the largest must be subtracted first: that is seen
            # from the sums, and saves two passes.
            with np.errstate(over="ignore"):
                np.exp2(scores, out=scores)
                # A product with ones is the fastest sum of rows.
                np.matmul(scores, self._ones, out=sums)
            if not (sums.min() > _SMALLEST and sums.max() < _LARGEST):
                np.multiply(scaled, np.float32(math.log(2)), out=scaled)
                np.matmul(scaled, keys, out=scores)
                sums[:] = softmax_rows(scores)[:, 0]
            np.matmul(scores, v, out=weighted)
            np.divide(weighted, sums[:, None], out=out[part])
