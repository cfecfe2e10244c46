"""The likeliest tokens of a row of logits, and log-probabilities."""

from __future__ import annotations

import numpy as np

from whisper_npu.ops.arrays import F32, I64

# Tokens of which at first only the largest logit is looked for.
_BLOCK = 512


def top_logprobs(logits: F32, tokens: I64, logprobs: F32) -> None:
    # [n, n_vocab] -> [n, k], [n, k]
    """The ``k`` likeliest tokens of each row, best first, and their log-probabilities.

    A row with a NaN or +infinity has none: it gets the first ``k`` tokens and NaN.
    """
    # One row at a time stays in a core's cache.
    for row, ids, values in zip(logits, tokens, logprobs, strict=True):
        ids[:] = top_tokens(row, len(ids))
        values[:] = token_logprobs(row, ids)
        if np.isnan(values[0]):
            ids[:] = np.arange(len(ids))


def top_tokens(row: F32, k: int) -> I64:  # [n_vocab], k -> [k]
    """The ``k`` tokens of the largest logits, best first, the lower id first where equal."""
    if k == 1:
        return np.array([row.argmax()])
    # k blocks have a maximum of at least the k-th largest maximum, so that no token below it is
    # wanted: only few are left to be sorted.
    maxima = np.maximum.reduceat(row, np.arange(0, len(row), _BLOCK))
    least = np.partition(maxima, -k)[-k] if len(maxima) >= k else -np.inf
    # Not the opposite of >=: a NaN is neither, and counts as the largest in a maximum.
    places = np.flatnonzero(~(row < least))
    best: I64 = places[np.argsort(-row[places], kind="stable")[:k]]
    return best


def token_logprobs(row: F32, tokens: I64) -> F32:  # [n_vocab], [k] -> [k]
    """Log-probabilities of some tokens: log-softmax of a row, only where it is needed."""
    # exp2 would be faster, but not where much is forbidden: minus infinity takes it ten times as
    # long.
    weights = row - row[row.argmax()]
    found = weights[tokens]
    np.exp(weights, out=weights)
    logprobs: F32 = found - np.log(weights.sum())
    return logprobs
