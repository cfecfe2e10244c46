"""Numbers that integer arithmetic finds hard, drawn from a seed."""

from __future__ import annotations

import numpy as np

from whisper_npu.ops.arrays import F32, I32
from whisper_npu.ops.fixed import LARGEST
from whisper_npu.ops.rows import limit


def numbers(rng: np.random.Generator, shape: tuple[int, ...], bits: int = 31) -> I32:
    """Every row (last axis) of a kind of its own; magnitudes of at most so many bits."""
    largest = 2**bits - 1
    x = np.empty(shape, np.int64)
    for index in np.ndindex(shape[:-1]):
        n = shape[-1]
        size = int(rng.integers(1, bits + 1))
        row = rng.integers(-(2**size) + 1, 2**size, n)
        kind = rng.integers(8)
        if kind == 0:
            row[:] = 0
        elif kind == 1:
            row = rng.choice([-largest, largest], n)
        elif kind == 2:
            row = rng.choice([-1, 1], n) << rng.integers(0, bits, n)
        elif kind == 3:
            row = ((np.int64(1) << rng.integers(0, bits, n)) + rng.integers(-1, 2, n)).clip(
                -largest, largest
            )
        elif kind == 4:
            row[:] = rng.integers(-3, 4, n)
            row[rng.integers(n)] = rng.choice([-largest, largest])
        elif kind == 5:
            row[:] = rng.integers(-1, 2, n)
        x[index] = row
    return x.astype(np.int32)


def halves(rng: np.random.Generator, m: int, k: int, bits: int) -> I32:
    """Rows whose scale is a power of two, where most values lie halfway between two integers."""
    largest = limit(bits, k)
    shift = rng.integers(1, 31 - largest.bit_length(), (m, 1))
    x = (2 * rng.integers(-largest, largest, (m, k)) + 1) << (shift - 1)
    x[:, rng.integers(k)] = largest << shift[:, 0]
    return x.astype(np.int32)


def scales(rng: np.random.Generator, n: int, bits: int, low: int = -30, high: int = 10) -> F32:
    """Scales with mantissas of at most so many bits, one of four a power of two, some 0."""
    mantissa = rng.integers(2 ** (bits - 1), 2**bits, n)
    mantissa[rng.random(n) < 0.25] = 2 ** (bits - 1)
    mantissa[rng.random(n) < 0.05] = 0
    return np.ldexp(mantissa, rng.integers(low, high, n)).astype(np.float32)


def saturated(x: np.typing.ArrayLike) -> I32:
    return np.clip(np.asarray(x), -LARGEST, LARGEST).astype(np.int32)
