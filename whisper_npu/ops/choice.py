"""The likeliest tokens of a row of logits, and log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from whisper_npu.ops.arrays import F32, I64
from whisper_npu.ops.exponentials import LOGPROB_STEP, log_of_sum, weights_below

# Tokens of which at first only the largest logit is looked for.
_BLOCK = 512


def top_logprobs(logits: F32, tokens: I64, logprobs: F32) -> None:
    # [n, n_vocab] -> [n, k], [n, k]
    """The ``k`` likeliest tokens of each row, best first, and their log-probabilities.

    A row with a NaN or +infinity has none: it gets the first ``k`` tokens and NaN.
    """
    _choose(logits, tokens, logprobs, token_logprobs)


def top_logprobs_int32(logits: F32, tokens: I64, logprobs: F32) -> None:
    # [n, n_vocab] -> [n, k], [n, k]
    """As ``top_logprobs``, for fixed-point logits: with one result on every machine.

    Logits are multiples of 2**-12 (``ops.exponentials``), log-probabilities those of
    ``token_logprobs_int32``.
    """
    _choose(logits, tokens, logprobs, token_logprobs_int32)


def _choose(
    logits: F32, tokens: I64, logprobs: F32, token_logprobs: Callable[[F32, I64], F32]
) -> None:  # [n, n_vocab] -> [n, k], [n, k]
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


def token_logprobs_int32(row: F32, tokens: I64) -> F32:  # [n_vocab], [k] -> [k]
    """Log-probabilities of some tokens, of fixed-point logits: x - largest - ln(sum of weights).

    They are multiples of 2**-18, rounded to float32 where it has no such number, from -64 on. For
    51,866 tokens they are within 1.5e-5 of log-softmax, and of their rounding.
    """
    largest = row[row.argmax()]
    if not math.isfinite(largest):
        return np.full(len(tokens), np.nan, np.float32)
    log = log_of_sum(int(weights_below(row, largest).sum()))
    # Exact in float64.
    below = np.subtract(row[tokens], largest, dtype=np.float64)
    logprobs: F32 = (below - log * LOGPROB_STEP).astype(np.float32)
    return logprobs
