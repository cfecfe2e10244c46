"""Attention of the integer network: of the encoder over a window, of the decoder over caches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from whisper_npu.backends.cpu.library import Library
from whisper_npu.backends.cpu.op_case import OpCase, Random
from whisper_npu.backends.cpu.records import CpuKernel, Ops, TensorField, Values
from whisper_npu.model.graph import Op
from whisper_npu.ops.arrays import I32
from whisper_npu.ops.fixed import LARGEST
from whisper_npu.runtime.backend import Array, Form

_INT32 = Form("int32")
_SOURCES = ("integer_attention.cc", "attention_weights.h", "pair_vectors.h")


def _numbers(rng: Random, shape: tuple[int, ...]) -> Iterator[tuple[str, I32]]:
    """Fixed-point numbers of several kinds, of which scores and weights are of all sizes."""
    normal = rng.standard_normal(shape)
    for bits in (3, 9, 13, 17, 22):
        yield f"of {bits} bits", np.rint(normal * 2**bits).astype(np.int32)
    yield "extreme", rng.choice(np.array([-LARGEST, LARGEST], np.int32), shape)
    yield "all positive", np.full(shape, LARGEST, np.int32)
    yield "all negative", np.full(shape, -LARGEST, np.int32)
    yield "all of them", rng.integers(-LARGEST, LARGEST, shape, np.int32, endpoint=True)
    yield "zeros", np.zeros(shape, np.int32)
    yield "ones", rng.integers(-1, 1, shape, np.int32, endpoint=True)
    # One that is far ahead of the others.
    few = np.rint(normal * 2**8).astype(np.int32)
    few.reshape(-1, shape[-1])[rng.integers(0, few.size // shape[-1])] *= 2**12
    yield "outliers", few
    # Every number tells where it stands: a transposed or shifted block cannot go unseen.
    structured = np.arange(normal.size) * 77773 % 65521 - 32760
    yield "structured", structured.astype(np.int32).reshape(shape)


def _alike(rng: Random, *shapes: tuple[int, ...]) -> Iterator[tuple[str, list[I32]]]:
    """Arrays of these shapes that hold numbers of the same kind."""
    for each in zip(*(_numbers(rng, shape) for shape in shapes), strict=True):
        yield each[0][0], [array for _, array in each]


def _mixed(rng: Random, *shapes: tuple[int, ...]) -> Iterator[tuple[str, list[I32]]]:
    """Arrays of these shapes, one after the other of each kind, and the others usual."""
    usual = [np.rint(rng.standard_normal(shape) * 2**13).astype(np.int32) for shape in shapes]
    for index, shape in enumerate(shapes):
        for name, odd in _numbers(rng, shape):
            arrays = list(usual)
            arrays[index] = odd
            yield f"{name}, array {index}", arrays


# b, t, n_head, d_head
_WINDOWS = (
    (1, 1, 1, 1), (2, 2, 1, 64), (1, 31, 2, 20), (1, 63, 1, 33), (1, 64, 1, 64), (2, 65, 2, 8),
    (1, 130, 1, 1), (1, 33, 1, 320), (1, 193, 1, 64),
)  # fmt: skip


def _window_values(ops: Ops, a: Mapping[str, Array]) -> Values:
    # 3 x [b, t, h * dh] -> [b, t, h * dh]
    b, t, d = a["q"].shape
    n_head = ops[0].attr("n_head")
    assert isinstance(n_head, int)
    return {"b": b, "t": t, "n_head": n_head, "d_head": d // n_head}


def _window_scratch(library: Library, args: Any, threads: int) -> int:
    return library.scratch_bytes("cpu_attention_int32_scratch", args, threads)


def _window_cases(rng: Random) -> Iterator[OpCase]:
    names = ("q", "k", "v")
    for b, t, n_head, d_head in _WINDOWS:
        op = Op("out", "attention_int32", names, ("out",), (("n_head", n_head),))
        shape = (b, t, n_head * d_head)
        mixed = _mixed(rng, shape, shape, shape) if d_head == 33 else ()
        for name, arrays in (*_alike(rng, shape, shape, shape), *mixed):
            yield OpCase(f"{name} {shape}", (op,), tuple(arrays), (np.empty(shape, np.int32),))
    # The largest sums that a window of the encoder has: of equal weights, and values of -2^12.
    op = Op("out", "attention_int32", names, ("out",), (("n_head", 1),))
    q, k, v = (np.full((1, 1500, 1), value, np.int32) for value in (3, 5, -LARGEST))
    yield OpCase(f"equal scores {q.shape}", (op,), (q, k, v), (np.empty_like(q),))


ATTENTION_INT32 = CpuKernel(
    name="cpu_attention_int32",
    kinds=("attention_int32",),
    structure="AttentionInt32",
    reads=(TensorField("q", _INT32), TensorField("k", _INT32), TensorField("v", _INT32)),
    writes=(TensorField("out", _INT32),),
    values=_window_values,
    scratch=_window_scratch,
    cases=_window_cases,
    layout="all [b, t, heads * d_head]",
    arithmetic="products of pairs of 16-bit integers with exact sums, weights of 13 bits, in "
    "blocks of 24 queries over all keys, which lie packed",
    sources=("window_attention_int32.h", *_SOURCES),
    model="attention_int.attention_int32",
)
