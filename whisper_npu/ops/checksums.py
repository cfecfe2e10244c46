"""Sums that prove a product of integers, for the price of its products with two vectors.

For C = A B^T and any vector v over the columns of C, C v = A (B^T v). B^T v is computed once for a
weight. One vector is all ones, the other has the numbers of ``multipliers``, which are all
different: together they find every error in one or two columns of a row, as long as it is below
2**32. (Algorithm-based fault tolerance: Huang and Abraham, IEEE Transactions on Computers C-33,
1984.)

Sums are exact modulo 2**64. They are computed by BLAS from pieces that are so short that float64
holds every sum of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from whisper_npu.ops.arrays import I8, I32, I64
from whisper_npu.ops.fixed import F64
from whisper_npu.ops.rows import Integers

# Of a multiplier of 32 bits, for weights of 8 bits: 2**(7 + 16) times 2**16 channels.
_OF_WEIGHTS = 16
# Of one for sums of 32 bits: 2**(31 + 11) times as many columns as are taken at a time.
_OF_SUMS = 11
_COLUMNS = 1 << 11
# Of a weighted sum of 55 bits, for rows of 16 bits: 2**(15 + 20) times 2**13 values.
_OF_ROWS = 20
# Rows that are converted to float64 at a time, so that they stay in a cache.
_ROWS = 64


def multipliers(n: int) -> NDArray[np.uint32]:  # [n]
    """Different numbers: those from 1 to n under a mixing function that has an inverse.

    The function is the finalizer of MurmurHash3, 32 bits.
    """
    mixed = np.arange(1, n + 1, dtype=np.uint32)
    mixed ^= mixed >> np.uint32(16)
    mixed *= np.uint32(0x85EBCA6B)
    mixed ^= mixed >> np.uint32(13)
    mixed *= np.uint32(0xC2B2AE35)
    mixed ^= mixed >> np.uint32(16)
    return mixed


def _pieces(numbers: NDArray[np.int64], bits: int, count: int) -> F64:  # [n] -> [count, n]
    """Numbers as digits to the base of 2**bits, the last one with all that is left and a sign."""
    digits = [(numbers >> (i * bits)) & ((1 << bits) - 1) for i in range(count - 1)]
    return np.stack([*digits, numbers >> ((count - 1) * bits)]).astype(np.float64)


def _joined(pieces: F64, bits: int) -> I64:  # [..., count] -> [...]
    """What such digits were summed to, modulo 2**64."""
    total = pieces[..., 0].astype(np.int64)
    for i in range(1, pieces.shape[-1]):
        total += pieces[..., i].astype(np.int64) << (i * bits)
    return total


def sums_of_weight(w: NDArray[np.floating] | I8, first: int = 0) -> I64:  # [n, k] -> [2, k]
    """B^T v for both vectors, of int8 weights in any dtype; of some of its channels, if ``first``
    is the first of them: those of all are the sum."""
    n = len(w)
    numbers = multipliers(first + n)[first:].astype(np.int64)
    vectors = np.concatenate([np.ones((1, n)), _pieces(numbers, _OF_WEIGHTS, 2)])
    found = vectors @ w.astype(np.float64)
    return np.stack([found[0].astype(np.int64), _joined(found[1:].T, _OF_WEIGHTS)])


def sums_of_rows(x: Integers, of_weight: I64) -> I64:  # [m, k], [2, k] -> [m, 2]
    """A (B^T v), for rows of int8 or int16."""
    plain, weighted = of_weight
    vectors = np.concatenate([plain[None].astype(np.float64), _pieces(weighted, _OF_ROWS, 3)])
    sums = np.empty((len(x), 2), np.int64)
    for start in range(0, len(x), _ROWS):
        part = slice(start, start + _ROWS)
        found = x[part].astype(np.float64) @ vectors.T
        sums[part, 0] = found[:, 0]
        sums[part, 1] = _joined(found[:, 1:], _OF_ROWS)
    return sums


def sums_of_product(c: I32) -> I64:  # [m, n] -> [m, 2]
    """C v for both vectors."""
    m, n = c.shape
    numbers = multipliers(n).astype(np.int64)
    vectors = np.concatenate([np.ones((1, n)), _pieces(numbers, _OF_SUMS, 3)])
    sums = np.zeros((m, 2), np.int64)
    for row in range(0, m, _ROWS):
        rows = slice(row, row + _ROWS)
        for column in range(0, n, _COLUMNS):
            part = slice(column, column + _COLUMNS)
            found = c[rows, part].astype(np.float64) @ vectors[:, part].T
            sums[rows, 0] += found[:, 0].astype(np.int64)
            sums[rows, 1] += _joined(found[:, 1:], _OF_SUMS)
    return sums
