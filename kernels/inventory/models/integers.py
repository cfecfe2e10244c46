"""The integer arithmetic of C on an AI Engine core, vectorised."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_npu.ops.arrays import I8, I32, I64

Integers = NDArray[Any]


def matmul(a: Integers, b: Integers) -> I64:  # [..., m, k], [..., k, n] -> [..., m, n]
    """Exact product of integers, as sums of less than 2**53 are in float64."""
    product: I64 = np.matmul(a.astype(np.float64), b.astype(np.float64)).astype(np.int64)
    return product


def clamp_int8(x: Integers) -> I8:
    """Saturate to [-128, 127]."""
    return np.clip(x, -128, 127).astype(np.int8)


def wrap_int16(x: Integers) -> I64:
    """The value after a store to int16, in an array that has room for what follows."""
    return x.astype(np.int16).astype(np.int64)


def wrap_int32(x: I64) -> I64:
    """The value of a sum in int32 that is allowed to wrap."""
    wrapped: I32 = x.astype(np.int32)
    return wrapped.astype(np.int64)


def divide_toward_zero(x: I64, divisor: int) -> I64:
    """C's integer division by a positive divisor."""
    quotient: I64 = np.sign(x) * (np.abs(x) // divisor)
    return quotient


def square_root(x: I64) -> I64:
    """floor(sqrt(x)) of 0 <= x < 2**52, where the square root of float64 is good enough."""
    root: I64 = np.floor(np.sqrt(x.astype(np.float64))).astype(np.int64)
    return root
