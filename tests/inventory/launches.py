"""Inputs of int8 for models: random ones, and such that reach the ends of every intermediate."""

from __future__ import annotations

import numpy as np

from whisper_npu.ops.arrays import I8


def int8_inputs(size: int, random: int = 3) -> list[I8]:
    """Random bytes, then extremes, sparse ones and such that cancel or saturate."""
    generator = np.random.RandomState(size)
    index = np.arange(size)
    sparse = np.where(index % 37 == 5, 127, 0)
    small = generator.randint(-2, 3, size)
    extremes = np.where(generator.randint(0, 2, size) == 1, 127, -128)
    made = [generator.randint(-128, 128, size) for _ in range(random)]
    made += [np.full(size, -128), np.full(size, 127), extremes, sparse, small]
    return [array.astype(np.int8) for array in made]
