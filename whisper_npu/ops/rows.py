"""Rows of int32 activations as int8 or int16 with a scale: what products take.

A scale is a float32 with a mantissa of at most ``SCALE_BITS`` bits, the smallest with which the
largest magnitude of its row stays within the limit of the type. Multiplying by an integer
reciprocal in place of dividing follows gemmlowp (Jacob et al. 2017, arXiv 1712.05877).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_npu.ops.arrays import F32, I32, I64
from whisper_npu.ops.fixed import F64, FRACTION, bit_length, square_root

# int8 or int16.
Integers = NDArray[Any]

SCALE_BITS = 8
# The largest int8 of weights and activations.
LARGEST_INT8 = 127
# The largest int16 of activations: 256 times an int8 and an int8.
LARGEST_INT16 = 256 * LARGEST_INT8 + LARGEST_INT8
# Fraction bits of reciprocals of a mantissa in [128, 256).
RECIPROCAL_BITS = 28
# Bits of the numbers of which root mean squares are taken: 2**14 squares of them are 2**42 at most.
SQUARED_BITS = 14
# Fraction bits of a root mean square, in units of the numbers that it is of.
ROOT_BITS = 10
# 1e-5, which layer norm adds to a variance, in units of 2**(-2 * FRACTION), for each element.
EPSILON = 1e-5 * 4.0**FRACTION


def limit(bits: int, k: int) -> int:
    """The largest magnitude of rows of k integers of so many bits.

    Of 16 bits it is what keeps a sum over k of products with int8 weights within int32, and at
    most ``LARGEST_INT16``: x is 256 times an integer in [-127, 127] and one in [-128, 127], so that
    two products of int8 rows give the sums of int16 rows.
    """
    return LARGEST_INT8 if bits == 8 else min(LARGEST_INT16, (2**31 - 1) // (LARGEST_INT8 * k))


def _mantissas(ratio: NDArray[np.float64]) -> tuple[I64, I64]:  # [...] -> [...], [...]
    """The smallest ``m * 2**e >= ratio`` with ``2**(SCALE_BITS - 1) <= m < 2**SCALE_BITS``.

    ``ratio`` is a quotient of two integers of at most 41 bits, rounded to float64: it is at no such
    number unless the quotient is. 0 has m = 0.
    """
    fraction, exponent = np.frexp(ratio)
    m = np.ceil(fraction * 2.0**SCALE_BITS).astype(np.int64)
    e = exponent.astype(np.int64) - SCALE_BITS
    carried = m == 2**SCALE_BITS
    return np.where(carried, m >> 1, m), e + carried


def largest_of_rows(x: I32) -> I64:  # [..., k] -> [...]
    """The largest magnitude of each row."""
    high: I64 = x.max(axis=-1).astype(np.int64)
    largest: I64 = np.maximum(high, -x.min(axis=-1).astype(np.int64))
    return largest


def quantize_int32(
    x: I32, bits: int, fraction: int = FRACTION, values: Integers | None = None,
    scale: F32 | None = None,
) -> tuple[Integers, F32]:  # fmt: skip
    # [..., k] -> [..., k], [...]
    """Rows of fixed-point numbers with so many fraction bits as ``values * scale``.

    values = rint(x * r), halves to even, with r = floor(2**28 / m) / 2**(28 + e) for a scale of
    m * 2**e in units of x. ``bits`` (8 or 16) is the type of the values. The error is at most half
    a scale and 2**-20 of the value. A row of zeros has scale 0.
    """
    reciprocal, scales = quantizer(largest_of_rows(x), limit(bits, x.shape[-1]), fraction)
    return _rounded(x, reciprocal, scales, bits, values, scale)


def quantizer(largest: I64, limit: int, fraction: int) -> tuple[F64, F64]:  # [...] -> [...], [...]
    """What ``quantize_int32`` multiplies rows by, and their scales."""
    m, e = _mantissas(largest / limit)
    # At most 2**21: a product with 31 bits is exact in float64.
    reciprocal = np.ldexp((1 << RECIPROCAL_BITS) // np.maximum(m, 1), -RECIPROCAL_BITS - e)
    return reciprocal, np.ldexp(m, e - fraction)


def _rounded(
    x: I32, reciprocal: F64, scales: F64, bits: int, values: Integers | None, scale: F32 | None
) -> tuple[Integers, F32]:  # [..., k], [...], [...] -> [..., k], [...]
    values = np.empty(x.shape, np.dtype(f"int{bits}")) if values is None else values
    np.copyto(values, np.rint(x * reciprocal[..., None]), casting="unsafe")
    scale = np.empty(scales.shape, np.float32) if scale is None else scale
    scale[...] = scales
    return values, scale


def rms_norm(
    x: I32, bits: int, values: Integers | None = None, scale: F32 | None = None
) -> tuple[Integers, F32]:  # [..., d] -> [..., d], [...]
    """``x / sqrt(mean(x^2) + 1e-5)`` of each row as ``values * scale``; x has FRACTION.

    This is layer norm where the mean is zero and gain and bias are part of the weights. With
    s = max(0, bits of the largest magnitude - 14), S = sum (x >> s)^2 and the epsilon
    E = rint(1e-5 d 2^24) >> 2 s, the root mean square is u 2^(s - 10) units of x, for
    u = isqrt((S + E) 2^20 // d). For 16 <= d <= 2^14 the error of that root is below 2^-12 of the
    largest magnitude or of the root, whichever is larger. values = rint(x * r) with
    r = floor(2^K / (u m)) 2^(10 - K - e) for a scale of m 2^(e - s), where K = 20 + bits of u m:
    the quotient lies in [2^20, 2^21].
    """
    largest = largest_of_rows(x)
    s = square_shift(largest)
    small = (x >> s[..., None].astype(np.int32)).astype(np.float64)
    # Each square is 2**28 at most: any order of the sum is exact.
    squares = np.einsum("...d,...d->...", small, small)
    reciprocal, scales = normalizer(largest, s, squares, x.shape[-1], limit(bits, x.shape[-1]))
    return _rounded(x, reciprocal, scales, bits, values, scale)


def square_shift(largest: I64) -> I64:  # [...] -> [...]
    """How far ``rms_norm`` shifts numbers down before it squares them."""
    shift: I64 = np.maximum(bit_length(largest) - SQUARED_BITS, 0)
    return shift


def normalizer(
    largest: I64, s: I64, squares: F64, d: int, limit: int
) -> tuple[F64, F64]:  # [...], [...], [...] -> [...], [...]
    """What ``rms_norm`` multiplies rows by, and their scales."""
    total = squares.astype(np.int64) + (np.int64(np.rint(EPSILON * d)) >> 2 * s)
    root = square_root((total << 2 * ROOT_BITS) // d)
    m, e = _mantissas(largest * 2.0**ROOT_BITS / (root * limit))
    divisor = root * np.maximum(m, 1)
    k = bit_length(divisor) + 20
    reciprocal = np.ldexp((np.int64(1) << k) // divisor, ROOT_BITS - k - e)
    # In units of the normalised row: the shift of the squares is in the root, not in the scale.
    return reciprocal, np.ldexp(m, e - s)
