"""Kernels that only move numbers: into a cache, by heads, and to the columns of a convolution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from whisper_npu.backends.cpu.kernels.cache_places import own_cache_values, places
from whisper_npu.backends.cpu.op_case import HEADS, OpCase, Random, floats, not_finite, split_sizes
from whisper_npu.backends.cpu.records import INTEGERS, CpuKernel, Ops, TensorField, Values
from whisper_npu.model.graph import Op
from whisper_npu.ops.fixed import LARGEST
from whisper_npu.runtime.backend import Array

_SOURCES = ("library.cc",)


def _cache_values(ops: Ops, a: Mapping[str, Array]) -> Values:
    # [b, n, h * dh], [slots, members, h, ctx, dh], [w], [w]
    return own_cache_values(a["x"], a["cache"], a["slot"])


def _cache_cases(rng: Random) -> Iterator[OpCase]:
    op = Op("cache", "store_cache", ("x", "cache", "position", "slot"), ("cache",))
    for n_head, d_head, n, first in ((1, 1, 1, 0), (2, 33, 3, 5), (6, 64, 1, 14), (3, 4, 16, 0)):
        for where in places(first, 16 - n):
            x = rng.standard_normal((where.sequences, n, n_head * d_head), np.float32)
            room = (where.all_slots, where.members, n_head, 16, d_head)
            cache = rng.standard_normal(room, np.float32)
            name = f"{x.shape} at {where.positions}"
            yield OpCase(name, (op,), (x, cache, *where.inputs()), (cache,))
    for name, x in not_finite(rng, (2, 3, 34)):
        cache = rng.standard_normal((1, 2, 2, 16, 17), np.float32)
        yield OpCase(name, (op,), (x, cache, np.array([13]), np.array([0])), (cache,))


STORE_CACHE = CpuKernel(
    name="cpu_store_cache",
    kinds=("store_cache",),
    structure="StoreCache",
    reads=(
        TensorField("x"), TensorField("cache"), TensorField("position", INTEGERS),
        TensorField("slot", INTEGERS),
    ),
    writes=(TensorField("cache"),),
    values=_cache_values,
    cases=_cache_cases,
    layout="x [b, n, heads * d_head], cache [slots, members, heads, ctx, d_head]; position and "
    "slot int64, of each window",
    arithmetic="copies",
    sources=_SOURCES,
    model="attention.store_cache",
)  # fmt: skip


def _head_values(ops: Ops, a: Mapping[str, Array]) -> Values:  # [b, t, h * dh] -> [b, h, t, dh]
    return split_sizes(a["out"])


def _head_cases(rng: Random) -> Iterator[OpCase]:
    for b, t, n_head, d_head in HEADS:
        op = Op("out", "split_heads", ("x",), ("out",), (("n_head", n_head),))
        shape = (b, t, n_head * d_head)
        for name, x in (*floats(rng, shape), *not_finite(rng, shape)):
            out = np.empty((b, n_head, t, d_head), np.float32)
            yield OpCase(f"{name} {x.shape}, {n_head} heads", (op,), (x,), (out,))


SPLIT_HEADS = CpuKernel(
    name="cpu_split_heads",
    kinds=("split_heads",),
    structure="SplitHeads",
    reads=(TensorField("x"),),
    writes=(TensorField("out"),),
    values=_head_values,
    cases=_head_cases,
    layout="x [b, t, heads * d_head], out [b, heads, t, d_head]",
    arithmetic="copies",
    sources=_SOURCES,
    model="attention.split_heads",
)


def _column_values(ops: Ops, a: Mapping[str, Array]) -> Values:
    # [b, t, c] -> [b, t / stride, 3 c]
    b, t, c = a["x"].shape
    step = ops[0].attr("stride")
    assert isinstance(step, int)
    return {"b": b, "t": t, "c": c, "step": step}


def _column_cases(rng: Random) -> Iterator[OpCase]:
    for t, c, stride in ((2, 1, 1), (2, 1, 2), (30, 7, 1), (30, 80, 2), (64, 33, 2), (50, 384, 1)):
        op = Op("out", "im2col", ("x",), ("out",), (("stride", stride),))
        shape = (2, t, c)
        for name, x in (
            ("random", rng.standard_normal(shape, np.float32)),
            *not_finite(rng, shape),
            ("int32", rng.integers(-LARGEST, LARGEST, shape, np.int32, endpoint=True)),
        ):
            out = np.empty((2, t // stride, 3 * c), x.dtype)
            yield OpCase(f"{name} {shape} {stride}", (op,), (x,), (out,))


IM2COL = CpuKernel(
    name="cpu_im2col",
    kinds=("im2col",),
    structure="Im2Col",
    reads=(TensorField("x", also="int32"),),
    writes=(TensorField("out", also="int32"),),
    values=_column_values,
    cases=_column_cases,
    layout="x [b, t, c], out [b, t / stride, 3 c]",
    arithmetic="copies, and zeros at both ends",
    sources=_SOURCES,
    model="linear.im2col",
)
