"""What decoding computes of logits: in floats, or in integers where logits are fixed-point.

In integers each result is the same on every machine: no function of a mathematical library is
called, and no sum depends on its order.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whisper_npu.ops.arrays import F32, I64
from whisper_npu.ops.choice import token_logprobs, token_logprobs_int32
from whisper_npu.ops.exponentials import LOGPROB_STEP, log_of_sum, weights_below

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Probabilities:
    """The functions of one way to compute them. A NaN or +infinity makes NaN of its whole row.

    * ``softmax``: logits [..., n] -> probabilities [..., n];
    * ``token_logprobs``: logits [n], tokens [k] -> their log-probabilities [k];
    * ``cumulative``: logits [n] -> numbers [n] that grow as the cumulative probabilities do;
    * ``outweigh``: logits [n], another -> whether all tokens of the first together are likelier;
    * ``power``: a positive number, exponent -> its power.
    """

    softmax: Callable[[F32], F32]
    token_logprobs: Callable[[F32, I64], F32]
    cumulative: Callable[[F32], F64]
    outweigh: Callable[[F32, float], bool]
    power: Callable[[float, float], float]


def softmax(logits: F32) -> F32:  # [..., n] -> [..., n]
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: F32 = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


def cumulative(logits: F32) -> F64:  # [n] -> [n]
    sums: F64 = np.exp(logits - logits.max()).cumsum(dtype=np.float64)
    return sums


def outweigh(logits: F32, other: float) -> bool:  # [n], []
    largest = logits[logits.argmax()]
    return bool(largest + np.log(np.exp(logits - largest).sum()) > other)


def softmax_int32(logits: F32) -> F32:  # [..., n] -> [..., n]
    """Weights over their sum, rounded to float64 and float32."""
    largest = logits.max(axis=-1, keepdims=True)
    known = np.isfinite(largest)
    with np.errstate(invalid="ignore"):
        weights = weights_below(logits, largest)
    probabilities = weights / weights.sum(axis=-1, keepdims=True)
    return np.where(known, probabilities, np.nan).astype(np.float32)


def cumulative_int32(logits: F32) -> F64:  # [n] -> [n]
    """Sums of weights, exact in float64."""
    largest = logits.max()
    if not math.isfinite(largest):
        return np.full(len(logits), np.nan)
    sums: F64 = weights_below(logits, largest).cumsum(dtype=np.float64)
    return sums


def outweigh_int32(logits: F32, other: float) -> bool:  # [n], []
    """Whether ln(sum of weights) > other - largest, in steps of 2**-18."""
    largest = logits[logits.argmax()]
    if not math.isfinite(largest):
        return False
    log = log_of_sum(int(weights_below(logits, largest).sum()))
    return log * LOGPROB_STEP > float(other) - float(largest)


def power_of_decimals(base: float, exponent: float) -> float:
    """A power by Python's decimal arithmetic, which is made of integers."""
    from decimal import Context, Decimal

    context = Context(prec=30)
    return float(context.power(Decimal(base), Decimal(exponent)))


FLOATS = Probabilities(softmax, token_logprobs, cumulative, outweigh, operator.pow)
INTEGERS = Probabilities(
    softmax_int32, token_logprobs_int32, cumulative_int32, outweigh_int32, power_of_decimals
)
