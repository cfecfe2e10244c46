"""What verification gives to a CPU kernel, and numbers to make it of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from whisper_npu.backends.numpy.specification import Array
from whisper_npu.model.graph import Op
from whisper_npu.ops.arrays import F32, I8

Random = np.random.Generator
# Half a unit in the last place of 1: the largest relative error of a rounding to float32.
EPSILON = 2.0**-24


def _exact() -> Array | None:
    return None


@dataclass(frozen=True)
class Case:
    """An op with inputs, and outputs of the right shapes. What an op writes into is both.

    ``allowed`` gives, once it has, the largest error of every element; None where outputs must be
    equal. ``rms_share`` is how much of that the root mean square of many may come to.
    """

    name: str
    op: Op
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    scratch: Array | None = None
    allowed: Callable[[], Array | None] = field(default=_exact)
    # The kernel, where it is not named after the kind of op.
    kernel: str | None = None
    rms_share: float | None = None


def integers(rng: Random, shape: tuple[int, ...]) -> Iterator[tuple[str, I8]]:
    """Integers in [-127, 127] of several kinds."""
    size = int(np.prod(shape))
    yield "random", rng.integers(-127, 127, shape, np.int8, endpoint=True)
    yield "extreme", rng.choice(np.array([-127, 127], np.int8), shape)
    yield "all of one sign", np.full(shape, -127, np.int8)
    yield "sparse", np.where(rng.random(shape) < 0.02, 127, 0).astype(np.int8)
    # Every value tells where it stands: a transposed or shifted block cannot go unseen.
    yield "structured", (np.arange(size) % 251 - 125).astype(np.int8).reshape(shape)
    few = rng.integers(-3, 3, shape, np.int8, endpoint=True)
    few.reshape(-1)[rng.integers(0, size, max(1, size // 50))] = 127
    yield "outliers", few


def floats(rng: Random, shape: tuple[int, ...]) -> Iterator[tuple[str, F32]]:
    """Floats of several kinds, all finite."""
    size = int(np.prod(shape))
    normal = rng.standard_normal(shape, np.float32)
    yield "random", normal
    yield "large", normal * np.float32(1e4)
    yield "tiny", normal * np.float32(1e-20)
    sparse = np.where(rng.random(shape) < 0.02, normal, 0).astype(np.float32)
    yield "sparse", sparse
    yield "structured", np.linspace(-8, 8, size, dtype=np.float32).reshape(shape)
    outliers = normal.copy()
    outliers.reshape(-1)[rng.integers(0, size, max(1, size // 100))] = 300
    yield "outliers", outliers
