"""What verification gives to a CPU kernel, and numbers to make it of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from whisper_npu.model.graph import Op, Tensor
from whisper_npu.ops.arrays import F32, I8, I32
from whisper_npu.ops.fixed import FRACTION, LARGEST
from whisper_npu.runtime.backend import Array, Bound

# A name alone: to import numpy.random takes longer than to load a library of kernels.
Random: TypeAlias = "np.random.Generator"
# Half a unit in the last place of 1: the largest relative error of a rounding to float32.
EPSILON = 2.0**-24
# Of ops that split the heads off: (b, t, n_head, d_head)
HEADS = ((1, 1, 1, 1), (2, 3, 2, 33), (1, 100, 6, 64), (3, 7, 3, 20))


def _exact() -> Array | None:
    return None


def outer_names(ops: Sequence[Op]) -> tuple[list[str], list[str]]:
    """The tensors that a region reads, in the order of its ops, and those that it writes.

    What ops before the last write stays within the region.
    """
    inner = {name for op in ops[:-1] for name in op.outputs}
    reads = [name for op in ops for name in op.inputs if name not in inner]
    return reads, list(ops[-1].outputs)


def split_sizes(heads: Array) -> dict[str, int]:  # [b, h, t, dh]
    """What a structure says of rows that are split into heads."""
    b, n_head, t, d_head = heads.shape
    return {"b": b, "t": t, "n_head": n_head, "d_head": d_head}


class OpCase(NamedTuple):
    """Ops with inputs, and outputs of the right shapes. What an op writes into is both.

    Arrays stand in the order of ``outer_names``, ``inner`` has the other tensors of a region.
    ``allowed`` gives, once it has, the largest error of every element; None where outputs must be
    equal.
    """

    name: str
    ops: tuple[Op, ...]
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    allowed: Callable[[], Array | None] = _exact
    inner: tuple[Tensor, ...] = ()

    def bound(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> Bound:
        """The ops with these arrays in the place of its own."""
        reads, writes = outer_names(self.ops)
        arrays = dict(zip((*reads, *writes), (*inputs, *outputs), strict=True))
        return Bound(self.ops, arrays, inner=self.inner)


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


def fixed_point(rng: Random, shape: tuple[int, ...]) -> Iterator[tuple[str, I32]]:
    """Fixed-point numbers of several kinds."""
    size = int(np.prod(shape))
    normal = (rng.standard_normal(shape) * 2**FRACTION).astype(np.int32)
    yield "random", normal
    wide = rng.integers(-LARGEST, LARGEST, shape, np.int32, endpoint=True)
    yield "of all sizes", wide >> rng.integers(0, 31, shape, np.int32)
    yield "extreme", rng.choice(np.array([-LARGEST, LARGEST, 0], np.int32), shape)
    yield "zeros", np.zeros(shape, np.int32)
    yield "smallest", rng.integers(-1, 1, shape, np.int32, endpoint=True)
    yield "structured", np.linspace(-LARGEST, LARGEST, size).astype(np.int32).reshape(shape)
    outliers = normal >> 6
    outliers.reshape(-1)[rng.integers(0, size, max(1, size // 100))] = LARGEST
    yield "outliers", outliers


def not_finite(rng: Random, shape: tuple[int, ...]) -> Iterator[tuple[str, F32]]:
    """Floats with one number that is not finite, and zeros alone."""
    for value in (np.nan, np.inf, -np.inf):
        x = rng.standard_normal(shape, np.float32)
        x.reshape(-1)[rng.integers(x.size)] = value
        yield f"with {value}", x
    yield "zeros", np.zeros(shape, np.float32)


def one_not_finite(rng: Random, *shapes: tuple[int, ...]) -> Iterator[tuple[str, list[F32]]]:
    """Arrays of these shapes, one after the other of them as ``not_finite`` has it."""
    for index, odd_shape in enumerate(shapes):
        for name, odd in not_finite(rng, odd_shape):
            arrays = [rng.standard_normal(shape, np.float32) for shape in shapes]
            arrays[index] = odd
            yield f"{name}, array {index}", arrays


def rows_to_round(rng: Random, shape: tuple[int, ...]) -> Iterator[tuple[str, F32]]:
    """Rows that are hard to quantise: zeros, ties, and some with what is not finite."""
    yield from floats(rng, shape)
    x = rng.standard_normal(shape, np.float32)
    x[..., 0, :] = 0
    # Halves: ties are rounded to even.
    x[..., -1, :] = np.arange(shape[-1]) % 127 + np.float32(0.5)
    x[..., -1, 0] = 127
    yield "ties", x
    for value in (np.nan, np.inf, -np.inf, 1e-30, 1e-42, 3e38):
        x = rng.standard_normal(shape, np.float32)
        x[..., -1] = value
        yield str(value), x
