"""Rotations by Hadamard matrices, with the same bits on every machine.

A Hadamard matrix H has entries +-1 and orthogonal rows, so R = H / sqrt(order) is a rotation. Those
here have a first row of ones: the other rows see nothing of a vector's mean. Orders are 2^n (by
Sylvester), 12 * 2^n and 20 * 2^n (a matrix of order 12 or 20 by Paley, times Sylvester's), which
are the widths of all published models. A vector of another width is cut into pieces of the largest
power of two that divides it, and each piece is rotated by itself.

Every function here is made of float64 additions, subtractions and one product, element by element
in a fixed order: IEEE 754 gives them one result. (The sums of BLAS and of NumPy's reductions depend
on the processor.)

The use of such rotations for quantised networks is from Ashkboos et al., QuaRot (arXiv 2404.00456).
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from whisper_npu.ops.arrays import I8
from whisper_npu.ops.fixed import F64

# Orders of Paley's matrices that are used: one more than a prime that is 3 modulo 4.
_SMALL = (12, 20)
# Values that are rotated in one go, so that they and what is made of them stay in a cache.
_VALUES = 1 << 16


def factors(d: int) -> tuple[int, int, int]:
    """Number of pieces, order of the small matrix (1, 12 or 20) and power of two: their product is
    ``d``."""
    power = d & -d
    for small in _SMALL:
        if d % small == 0 and d // small & (d // small - 1) == 0:
            return 1, small, d // small
    return d // power, 1, power


def total(x: F64) -> F64:  # [..., k] -> [...]
    """The sum over the last axis: the second half is added to the first until one value is left.

    Of an odd number of values the last is added to the first one.
    """
    while (k := x.shape[-1]) > 1:
        half = k // 2
        folded = x[..., :half] + x[..., half : 2 * half]
        if k % 2:
            folded[..., 0] += x[..., -1]
        x = folded
    return x[..., 0]


def rotate(x: F64) -> None:  # [b, d, m]
    """Multiply each [d, m] by R from the left, in place. ``x`` is contiguous."""
    for part in _parts(x):
        x[..., part] = _rotated(x[..., part])


def rotate_centred(x: F64) -> None:  # [b, d, m]
    """Multiply each [d, m] by R C from the left, in place; C subtracts the mean over d.

    Where R is one Hadamard matrix, row 0 of the result is zero and the others are those of R.
    """
    pieces = factors(x.shape[1])[0]
    for part in _parts(x):
        columns = x[..., part]
        if pieces > 1:
            mean = total(np.ascontiguousarray(columns.swapaxes(1, 2))) / x.shape[1]
            columns = columns - mean[:, None, :]
        rotated = _rotated(columns)
        if pieces == 1:
            rotated[:, 0] = 0
        x[..., part] = rotated


def _parts(x: F64) -> list[slice]:
    b, d, m = x.shape
    count = max(1, _VALUES // (b * d))
    return [slice(first, min(first + count, m)) for first in range(0, m, count)]


def _rotated(x: F64) -> F64:  # [b, d, m] -> [b, d, m]
    b, d, m = x.shape
    _, small, power = factors(d)
    old = np.array(x, order="C").reshape(b, -1, power, m)
    if small > 1:
        old = _small_product(old, _paley(small))
    new = np.empty_like(old)
    half = 1
    while half < power:
        shape = (-1, power // (2 * half), 2, half, m)
        one, other = old.reshape(shape), new.reshape(shape)
        np.add(one[:, :, 0], one[:, :, 1], out=other[:, :, 0])
        np.subtract(one[:, :, 0], one[:, :, 1], out=other[:, :, 1])
        old, new = new, old
        half *= 2
    old *= 1 / math.sqrt(small * power)
    return old.reshape(b, d, m)


def _small_product(x: F64, matrix: I8) -> F64:  # [b, s, p, m], [s, s] -> [b, s, p, m]
    """Each row of the matrix times ``x``: terms are added one after the other."""
    out = np.empty(x.shape)
    for i, signs in enumerate(matrix):
        np.multiply(x[:, 0], float(signs[0]), out=out[:, i])
        for j in range(1, len(signs)):
            (np.add if signs[j] > 0 else np.subtract)(out[:, i], x[:, j], out=out[:, i])
    return out


@cache
def _paley(order: int) -> I8:  # -> [order, order]
    """Paley's first construction, with q = order - 1 a prime that is 3 modulo 4.

    The first row is ones, the rest of the first column -1, and what is left Q + I with
    Q[i, j] = 1 where i - j is a square modulo q, and -1 where it is none.
    """
    q = order - 1
    squares = {i * i % q for i in range(1, q)}
    matrix = np.full((order, order), -1, np.int8)
    matrix[0] = 1
    for i in range(q):
        for j in range(q):
            if i == j or (i - j) % q in squares:
                matrix[i + 1, j + 1] = 1
    return matrix
