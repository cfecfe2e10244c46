"""Inputs made to break a kernel, for verification."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_npu.ops.arrays import F32

Array = NDArray[Any]
Shape = tuple[int, ...]

# 2^50: its square, summed over a row, is still a float32.
_LARGE = np.float32(2.0**50)


def _random(rng: np.random.Generator, dtype: str, shape: Shape) -> Array:
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def _extreme(rng: np.random.Generator, dtype: str, shape: Shape) -> Array:
    limits = np.iinfo(dtype)
    return rng.choice(np.array([limits.min, limits.max], dtype), shape)


def _sparse(rng: np.random.Generator, dtype: str, shape: Shape) -> Array:
    return np.where(rng.random(shape) < 0.02, _random(rng, dtype, shape), 0).astype(dtype)


def _structured(rng: np.random.Generator, dtype: str, shape: Shape) -> Array:
    # Every value tells where it stands: a transposed or shifted tile cannot go unseen.
    return np.arange(math.prod(shape), dtype=np.int64).astype(dtype).reshape(shape)


def _outliers(rng: np.random.Generator, dtype: str, shape: Shape) -> Array:
    array = rng.integers(-3, 4, shape).astype(dtype)
    array.reshape(-1)[rng.integers(0, array.size, max(1, array.size // 50))] = np.iinfo(dtype).max
    return array


# Inputs that are the last ones but for a few values.
CHANGED = "changed a little"


def changed_little(rng: np.random.Generator, array: Array) -> Array:
    """An array with two of its values in each other's places, as far as they differ."""
    changed: Array = array.copy()
    flat = changed.reshape(-1)
    places = rng.integers(0, flat.size, 2)
    flat[places] = flat[places[::-1]]
    return changed


def _one_sign(rng: np.random.Generator, dtype: str, shape: Shape) -> Array:
    # The largest sums that there are.
    limits = np.iinfo(dtype)
    array: Array = np.full(shape, rng.choice([limits.min, limits.max]), dtype)
    return array


INTEGERS: Mapping[str, Callable[[np.random.Generator, str, Shape], Array]] = {
    "random": _random,
    "extreme": _extreme,
    "sparse": _sparse,
    "structured": _structured,
    "outliers": _outliers,
    "one sign": _one_sign,
}


def _random_floats(rng: np.random.Generator, shape: Shape) -> F32:
    return rng.standard_normal(shape, np.float32)


def _extreme_floats(rng: np.random.Generator, shape: Shape) -> F32:
    extremes: F32 = rng.choice(np.array([-_LARGE, _LARGE]), shape)
    return extremes


def _sparse_floats(rng: np.random.Generator, shape: Shape) -> F32:
    sparse: F32 = np.where(rng.random(shape) < 0.02, _random_floats(rng, shape), np.float32(0))
    return sparse


def _structured_floats(rng: np.random.Generator, shape: Shape) -> F32:
    # Multiples of 1/16 from -8: a bfloat16 holds each of these 256.
    steps = np.arange(math.prod(shape)) % 256
    structured: F32 = (steps / np.float32(16) - np.float32(8)).astype(np.float32).reshape(shape)
    return structured


def _float_outliers(rng: np.random.Generator, shape: Shape) -> F32:
    array = _random_floats(rng, shape)
    array.reshape(-1)[rng.integers(0, array.size, max(1, array.size // 50))] = 1000
    return array


def _floats_of_one_sign(rng: np.random.Generator, shape: Shape) -> F32:
    return np.full(shape, rng.choice([-1000, 1000]), np.float32)


# The same by name, as float32.
FLOATS: Mapping[str, Callable[[np.random.Generator, Shape], F32]] = {
    "random": _random_floats,
    "extreme": _extreme_floats,
    "sparse": _sparse_floats,
    "structured": _structured_floats,
    "outliers": _float_outliers,
    "one sign": _floats_of_one_sign,
}
