"""Attention of the integer network: of the encoder over a window, of the decoder over caches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from whisper_npu.backends.cpu.kernels.cache_places import Places, cache_values, own_cache_values
from whisper_npu.backends.cpu.library import Library
from whisper_npu.backends.cpu.op_case import OpCase, Random, integers
from whisper_npu.backends.cpu.records import BYTES, INTEGERS, CpuKernel, Ops, TensorField, Values
from whisper_npu.model.graph import Graph, Op
from whisper_npu.ops.arrays import F32, I16, I32
from whisper_npu.ops.fixed import LARGEST
from whisper_npu.runtime.backend import Array, Form

_INT32, _INT16 = Form("int32"), Form("int16")
# Kept scores are of heads that have a bit in an int64.
_LAST_HEAD = 62
_SOURCES = ("integer_attention.cc", "attention_weights.h", "pair_vectors.h", "numbers.h")


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
    # Scores that differ by the least that there is, and stand for large differences.
    steps = rng.integers(-1, 1, shape, np.int32, endpoint=True) << 19
    steps[..., 0] = LARGEST
    yield "a step apart", steps
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


# A head of more columns is NumPy's.
_WIDEST_INT8 = 256


def _window_values(ops: Ops, a: Mapping[str, Array]) -> Values:
    # 3 x [b, t, h * dh] -> [b, t, h * dh]
    b, t, d = a["q"].shape
    n_head = ops[0].attr("n_head")
    assert isinstance(n_head, int)
    return {"b": b, "t": t, "n_head": n_head, "d_head": d // n_head}


def _window_scratch(library: Library, args: Any, threads: int) -> int:
    return library.scratch_bytes("cpu_attention_int32_scratch", args, threads)


def _window_int8_scratch(library: Library, args: Any, threads: int) -> int:
    return library.scratch_bytes("cpu_attention_int8_scratch", args, threads)


def _window_op(kind: str, n_head: int) -> Op:
    return Op("out", kind, ("q", "k", "v"), ("out",), (("n_head", n_head),))


def _window_cases(kind: str, rng: Random) -> Iterator[OpCase]:
    for b, t, n_head, d_head in _WINDOWS:
        if kind == "attention_int8" and d_head > _WIDEST_INT8:
            continue
        op, shape = _window_op(kind, n_head), (b, t, n_head * d_head)
        mixed = _mixed(rng, shape, shape, shape) if d_head == 33 else ()
        for name, arrays in (*_alike(rng, shape, shape, shape), *mixed):
            yield OpCase(f"{name} {shape}", (op,), tuple(arrays), (np.empty(shape, np.int32),))
    # The largest sums that a window of the encoder has: of equal weights, and the largest values.
    q, k, v = (np.full((1, 1500, 1), value, np.int32) for value in (3, 5, -LARGEST))
    yield OpCase(f"equal scores {q.shape}", (_window_op(kind, 1),), (q, k, v), (np.empty_like(q),))


def _window_int8_cases(rng: Random) -> Iterator[OpCase]:
    """Also of the widest head there is, and of a window of the encoder."""
    yield from _window_cases("attention_int8", rng)
    for shape, bits in (((1, 67, _WIDEST_INT8), 13), ((1, 1500, 64), 11)):
        arrays = [np.rint(rng.standard_normal(shape) * 2**bits).astype(np.int32) for _ in "qkv"]
        yield OpCase(
            f"{shape}", (_window_op("attention_int8", 1),), tuple(arrays),
            (np.empty(shape, np.int32),),
        )  # fmt: skip


ATTENTION_INT32 = CpuKernel(
    name="cpu_attention_int32",
    kinds=("attention_int32",),
    structure="AttentionInt32",
    reads=(TensorField("q", _INT32), TensorField("k", _INT32), TensorField("v", _INT32)),
    writes=(TensorField("out", _INT32),),
    values=_window_values,
    scratch=_window_scratch,
    cases=partial(_window_cases, "attention_int32"),
    layout="all [b, t, heads * d_head]",
    arithmetic="products of pairs of 16-bit integers with exact sums, weights of 13 bits, in "
    "blocks of 24 queries over all keys, which lie packed",
    sources=("window_attention_int32.h", *_SOURCES),
    model="attention_int.attention_int32",
)


ATTENTION_INT8 = CpuKernel(
    name="cpu_attention_int8",
    kinds=("attention_int8",),
    structure="AttentionInt32",
    reads=(TensorField("q", _INT32), TensorField("k", _INT32), TensorField("v", _INT32)),
    writes=(TensorField("out", _INT32),),
    values=_window_values,
    scratch=_window_int8_scratch,
    cases=_window_int8_cases,
    layout="all [b, t, heads * d_head], d_head of up to 256, t of up to 8192",
    arithmetic="products of 8-bit integers with exact sums, weights of 8 bits, in blocks of 24 "
    "queries over all keys, which lie packed; bytes are multiplied where there is an instruction",
    sources=("window_attention_int8.h", "window_attention_int32.h", *_SOURCES),
    model="attention_int.attention_int8",
)


def _cached_values(ops: Ops, a: Mapping[str, Array]) -> Values:
    # [b, n, h * dh], [slots, members, h, ctx, dh] of each, [w], [w] -> [b, n, h * dh]
    return own_cache_values(a["q"], a["k"], a["slot"])


def _cached_scratch(library: Library, args: Any, threads: int) -> int:
    return library.scratch_bytes("cpu_cached_attention_int16_scratch", args)


def _steps(rng: Random, shape: tuple[int, ...]) -> Iterator[tuple[str, I16]]:
    """Keys or values of a cache, of several kinds."""
    normal = rng.standard_normal(shape)
    for bits in (5, 9, 12):
        yield f"of {bits} bits", np.rint(normal * 2**bits).clip(-32767, 32767).astype(np.int16)
    yield "extreme", rng.choice(np.array([-32767, 32767], np.int16), shape)
    yield "all negative", np.full(shape, -32767, np.int16)
    yield "zeros", np.zeros(shape, np.int16)
    structured = np.arange(normal.size) * 7919 % 65521 - 32760
    yield "structured", structured.astype(np.int16).reshape(shape)


# n_head, d_head, n, position, ctx
_CACHED = (
    (1, 1, 1, 0, 1), (2, 64, 1, 37, 64), (3, 33, 5, 0, 64), (2, 20, 4, 60, 64), (1, 64, 9, 58, 80),
    (1, 128, 1, 447, 448), (1, 96, 2, 130, 132),
)  # fmt: skip


def _cached_cases(rng: Random) -> Iterator[OpCase]:
    """Over caches with any numbers behind what has been written.

    Each kind of queries meets each kind of keys and of values in one of the cases.
    """
    op = Op("out", "cached_attention_int16", ("q", "k", "v", "position", "slot"), ("out",))
    for index, (n_head, d_head, n, position, ctx) in enumerate(_CACHED):
        alone = Places((position,), (0,), 2, 1, 2)
        among = Places((position, position // 2), (3, 0), 1, 4, 2)
        shape = (2, n, n_head * d_head)
        steps = dict(_steps(rng, (4, 2, n_head, ctx, d_head)))
        kinds = list(steps)
        for i, (name, q) in enumerate(_numbers(rng, shape)):
            of_keys, of_values = kinds[(i + index) % len(kinds)], kinds[i * 3 % len(kinds)]
            where = alone if i % 2 == 0 else among
            k, v = (steps[of][: where.all_slots] for of in (of_keys, of_values))
            yield OpCase(
                f"{name}, {of_keys} keys, {of_values} values, {shape} at {where.positions}", (op,),
                (q, k, v, *where.inputs()), (np.empty(shape, np.int32),),
            )  # fmt: skip


CACHED_ATTENTION_INT16 = CpuKernel(
    name="cpu_cached_attention_int16",
    kinds=("cached_attention_int16",),
    structure="CachedAttentionInt16",
    reads=(
        TensorField("q", _INT32), TensorField("k", _INT16), TensorField("v", _INT16),
        TensorField("position", INTEGERS), TensorField("slot", INTEGERS),
    ),
    writes=(TensorField("out", _INT32),),
    values=_cached_values,
    scratch=_cached_scratch,
    cases=_cached_cases,
    layout="q and out [b, n, heads * d_head], k and v [slots, members, heads, ctx, d_head]; "
    "position and slot int64, of each window",
    arithmetic="exact scores of a query, in two halves, with the keys so far, weights of 13 bits, "
    "exact sums of weighted values",
    notes=("For d_head up to 256, and keys and values above -32768.",),
    sources=("integers_over_cache.h", *_SOURCES),
    model="attention_int.cached_attention_int16",
)  # fmt: skip


def _kept_heads(op: Op) -> tuple[int, ...]:
    heads = op.attr("heads")
    assert isinstance(heads, tuple)
    return heads


def _refuses_heads(graph: Graph, ops: Ops) -> str | None:
    heads = _kept_heads(ops[0])
    if heads and (list(heads) != sorted(set(heads)) or heads[-1] > _LAST_HEAD):
        return f"it keeps scores of heads up to {_LAST_HEAD} in their order, not of {heads}"
    return None


def _cross_values(ops: Ops, a: Mapping[str, Array]) -> Values:
    # [w * g, n, h * dh], [slots, h, t, dh], ..., [slots, h, dh], ..., [w] -> [w * g, n, h * dh]
    heads = sum(1 << head for head in _kept_heads(ops[0]))
    sizes = cache_values(a["q"], a["k"], a["slot"])
    # Null, unless it is an argument.
    return {**sizes, "heads": heads, "kept": None}


def _cross_scratch(library: Library, args: Any, threads: int) -> int:
    return library.scratch_bytes("cpu_cross_attention_int32_scratch", args)


def _powers(rng: Random, shape: tuple[int, ...], least: int, most: int) -> F32:
    """Powers of two from 2^least to 2^most."""
    powers: F32 = np.ldexp(np.float32(1), rng.integers(least, most, shape, endpoint=True))
    return powers


# n_head, d_head, n, t, sequences of an audio
_CROSS = (
    (1, 1, 1, 1, 1), (2, 64, 1, 63, 1), (1, 64, 1, 64, 5), (2, 33, 3, 65, 2), (1, 20, 1, 130, 3),
    (1, 64, 8, 100, 2), (1, 96, 1, 200, 1), (1, 64, 1, 1500, 2),
)  # fmt: skip


def _cross_cases(rng: Random) -> Iterator[OpCase]:
    """Of several sequences to the keys and values of their audio."""
    names = ("q", "k", "v", "k_scale", "v_scale", "slot")
    op = Op("out", "cross_attention_int32", names, ("out",), (("heads", ()),))
    for index, (n_head, d_head, n, t, group) in enumerate(_CROSS):
        shape, scales = (2 * group, n, n_head * d_head), (3, n_head, d_head)
        keys = list(integers(rng, (3, n_head, t, d_head)))
        values = list(integers(rng, (3, n_head, t, d_head)))
        for i, (name, q) in enumerate(_numbers(rng, shape)):
            of_keys, k = keys[(i + index) % len(keys)]
            of_values, v = values[i * 5 % len(values)]
            # From the least that there are to the largest, and much as in a model.
            ranges = ((-12, 12), (-7, -4), (-12, -12))[i % 3]
            k_scale, v_scale = (_powers(rng, scales, *ranges) for _ in range(2))
            slot = np.array([2, 0] if i % 2 == 0 else [0, 1])
            yield OpCase(
                f"{name}, {of_keys} keys, {of_values} values, {shape} over {t}", (op,),
                (q, k, v, k_scale, v_scale, slot), (np.empty(shape, np.int32),),
            )  # fmt: skip
            if i % 4 != 0:
                continue
            # Of the first sequence, with the scores of all heads or of the last one.
            heads = tuple(range(n_head)) if i % 8 == 0 else (n_head - 1,)
            keeping = Op("out", op.kind, names, ("out", "kept"), (("heads", heads),))
            yield OpCase(
                f"{name}, {of_keys} keys, {of_values} values, scores of {heads}", (keeping,),
                (q[:1], k, v, k_scale, v_scale, slot[:1]),
                (np.empty((1, *shape[1:]), np.int32), np.empty((len(heads), n, t), np.float32)),
            )  # fmt: skip


CROSS_ATTENTION_INT32 = CpuKernel(
    name="cpu_cross_attention_int32",
    kinds=("cross_attention_int32",),
    structure="CrossAttentionInt32",
    reads=(
        TensorField("q", _INT32), TensorField("k", BYTES), TensorField("v", BYTES),
        TensorField("k_scale"), TensorField("v_scale"), TensorField("slot", INTEGERS),
    ),
    writes=(TensorField("out", _INT32), TensorField("kept", optional=True)),
    values=_cross_values,
    scratch=_cross_scratch,
    refuses=_refuses_heads,
    cases=_cross_cases,
    layout="q and out [w * g, n, heads * d_head], k and v [slots, heads, t, d_head], their scales "
    "[slots, heads, d_head]; slot int64, of each window; of one sequence scores of some heads, "
    "[such heads, n, t]",
    arithmetic="exact scores of queries, scaled by column and cut to 16 bits, with all keys, "
    "weights of 13 bits, exact sums of weighted values",
    notes=("For d_head up to 256.",),
    sources=("integers_over_cache.h", *_SOURCES),
    model="attention_int.cross_attention_int32",
)  # fmt: skip
