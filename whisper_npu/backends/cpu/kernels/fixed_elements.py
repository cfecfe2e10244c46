"""Ops of the integer network that work element by element."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from whisper_npu.backends.cpu.kernels.cache_places import own_cache_values, places
from whisper_npu.backends.cpu.op_case import OpCase, Random, fixed_point, integers
from whisper_npu.backends.cpu.records import (
    BYTES,
    FIXED_POINT,
    INTEGERS,
    SHORTS,
    CpuKernel,
    Ops,
    TensorField,
    Values,
)
from whisper_npu.model.graph import Op
from whisper_npu.ops.arrays import I32
from whisper_npu.ops.fixed import LARGEST
from whisper_npu.runtime.backend import Array

_SOURCES = ("fixed_point.cc", "fixed_elements.h", "fixed_vectors.h")
_SHAPES = ((1,), (3, 5), (16,), (2, 63), (7, 1536), (40, 257))


def _count(ops: Ops, a: Mapping[str, Array]) -> Values:  # [...] -> [...]
    return {"count": a["x"].size}


def _gelu_cases(rng: Random) -> Iterator[OpCase]:
    op = Op("out", "gelu_int32", ("x",), ("out",))
    # Every number within the intervals and beyond both of their ends.
    every = np.arange(-17_000, 17_000, dtype=np.int32)
    cases = [(f"{name} {s}", x) for s in _SHAPES for name, x in fixed_point(rng, s)]
    for name, x in (*cases, ("every", every)):
        yield OpCase(name, (op,), (x,), (np.empty_like(x),))


GELU_INT32 = CpuKernel(
    name="cpu_gelu_int32",
    kinds=("gelu_int32",),
    structure="GeluInt32",
    reads=(TensorField("x", FIXED_POINT),),
    writes=(TensorField("out", FIXED_POINT),),
    values=_count,
    in_place=True,
    cases=_gelu_cases,
    layout="x and out int32 [count]",
    arithmetic="max(x, 0) less a cubic of abs x, one for each of eight intervals, in int32",
    sources=_SOURCES,
    model="product_int8.gelu_int32",
)


def _add_values(ops: Ops, a: Mapping[str, Array]) -> Values:
    # [..., n], [n] or [..., n] -> [..., n]
    return {"count": a["x"].size, "period": a["y"].size}


def _add_cases(rng: Random) -> Iterator[OpCase]:
    op = Op("out", "add_int32", ("x", "y"), ("out", "cut"))

    def case(name: str, x: I32, y: I32) -> OpCase:
        return OpCase(name, (op,), (x, y), (np.empty_like(x), np.empty((), np.int32)))

    for shape, rest in (((1, 3), 1), ((2, 5, 33), 1), ((3, 64, 48), 0), ((20, 700), 0)):
        others = [y for _, y in fixed_point(rng, shape[1:] if rest else shape)]
        for name, x in fixed_point(rng, shape):
            for index in (0, 1, 2):
                yield case(f"{name} {shape} {index}", x, others[index])
    # One element decides: a term or a sum is at the limit, or next to it.
    for terms in ((LARGEST, -5), (-5, LARGEST), (LARGEST - 5, 5)):
        for less in (0, 1):
            for sign in (1, -1):
                x, y = rng.integers(-9, 9, (2, 3, 5000), np.int32)
                place = (2, int(rng.integers(5000)))
                largest = max(terms)
                x[place], y[place] = (sign * (t - less if t == largest else t) for t in terms)
                yield case(f"{x[place]} and {y[place]}", x, y)


ADD_INT32 = CpuKernel(
    name="cpu_add_int32",
    kinds=("add_int32",),
    structure="AddInt32",
    reads=(TensorField("x", FIXED_POINT), TensorField("y", FIXED_POINT)),
    writes=(TensorField("out", FIXED_POINT), TensorField("cut", FIXED_POINT)),
    values=_add_values,
    in_place=True,
    cases=_add_cases,
    layout="x and out int32 [count], y [period], which repeats, cut one int32",
    arithmetic="x + y, saturated; cut is 1 if a term or a sum is at the limit, else 0",
    sources=_SOURCES,
    model="product_int8.add_int32",
)


def _embed_values(ops: Ops, a: Mapping[str, Array]) -> Values:
    # [b, n], [v, d], [v], [ctx, d], [w] -> [b, n, d]
    (ctx, d), (b, n) = a["positions"].shape, a["tokens"].shape
    group = b // len(a["position"])
    return {"rows": b * n, "n": n, "group": group, "d": d, "ctx": ctx}


def _embed_cases(rng: Random) -> Iterator[OpCase]:
    op = Op("out", "embed_int32", ("tokens", "table", "scale", "positions", "position"), ("out",))
    for b, n, d, position in (
        (1, 1, 1, (0,)), (3, 4, 33, (5,)), (4, 1, 384, (447, 3)), (1, 40, 512, (0,)),
    ):  # fmt: skip
        tables = [table for _, table in integers(rng, (70, d))]
        for index, (name, positions) in enumerate(fixed_point(rng, (448, d))):
            tokens = rng.integers(0, 70, (b, n))
            tokens[0, 0] = 69
            # Halves in every other case: a tie wherever a number is odd.
            mantissas = rng.integers(8192, 16384, 70) if index % 2 == 0 else np.full(70, 8192)
            scale = np.ldexp(mantissas, rng.integers(-28, -20, 70) if index % 2 == 0 else -26)
            yield OpCase(
                f"{name} {b}x{n} {d} at {position}", (op,),
                (tokens, tables[index % len(tables)], scale.astype(np.float32), positions,
                 np.array(position)),
                (np.empty((b, n, d), np.int32),),
            )  # fmt: skip


EMBED_INT32 = CpuKernel(
    name="cpu_embed_int32",
    kinds=("embed_int32",),
    structure="EmbedInt32",
    reads=(
        TensorField("tokens", INTEGERS), TensorField("table", BYTES), TensorField("scale"),
        TensorField("positions", FIXED_POINT), TensorField("position", INTEGERS),
    ),
    writes=(TensorField("out", FIXED_POINT),),
    values=_embed_values,
    cases=_embed_cases,
    layout="tokens [b, n] int64, table int8 [v, d], positions int32 [ctx, d], out int32 [b, n, d], "
    "all row-major",
    arithmetic="the token's integers times its scale in float64 (exact), rounded, halves to even, "
    "plus its position, saturated",
    sources=_SOURCES,
    model="product_int8.embed_int32",
)  # fmt: skip


def _store_values(ops: Ops, a: Mapping[str, Array]) -> Values:
    # [b, n, h * dh], [slots, members, h, ctx, dh], [w], [w]
    return own_cache_values(a["x"], a["cache"], a["slot"])


def _store_cases(rng: Random) -> Iterator[OpCase]:
    op = Op("cache", "store_int16", ("x", "cache", "position", "slot"), ("cache",))
    for n_head, d_head, n, first in ((1, 1, 1, 0), (2, 33, 3, 5), (6, 64, 1, 14), (3, 4, 16, 0)):
        for where in places(first, 16 - n):
            shape = (where.sequences, n, n_head * d_head)
            room = (where.all_slots, where.members, n_head, 16, d_head)
            # Next to where a cache saturates.
            signs = rng.choice(np.array([-1, 1], np.int32), shape)
            full = signs * (262136 + rng.integers(-9, 9, shape, np.int32))
            for name, x in (*fixed_point(rng, shape), ("full", full)):
                cache = rng.integers(-(2**15), 2**15, room, np.int16)
                yield OpCase(
                    f"{name} {shape} at {where.positions}", (op,),
                    (x, cache, *where.inputs()), (cache,),
                )  # fmt: skip


STORE_INT16 = CpuKernel(
    name="cpu_store_int16",
    kinds=("store_int16",),
    structure="StoreInt16",
    reads=(
        TensorField("x", FIXED_POINT), TensorField("cache", SHORTS),
        TensorField("position", INTEGERS), TensorField("slot", INTEGERS),
    ),
    writes=(TensorField("cache", SHORTS),),
    values=_store_values,
    cases=_store_cases,
    layout="x int32 [b, n, heads * d_head], cache int16 [slots, members, heads, ctx, d_head]; "
    "position and slot int64, of each window",
    arithmetic="three bits less, rounded half up, saturated",
    sources=_SOURCES,
    model="attention_int.store_int16",
)  # fmt: skip


def _logit_cases(rng: Random) -> Iterator[OpCase]:
    op = Op("out", "logits_float", ("x",), ("out",))
    edges = 2**24 + rng.integers(-3, 3, (2, 63), np.int32)
    for shape in _SHAPES:
        for name, x in fixed_point(rng, shape):
            yield OpCase(f"{name} {shape}", (op,), (x,), (np.empty(shape, np.float32),))
    for name, x in (("largest", edges), ("least", -edges)):
        yield OpCase(name, (op,), (x,), (np.empty(x.shape, np.float32),))


LOGITS_FLOAT = CpuKernel(
    name="cpu_logits_float",
    kinds=("logits_float",),
    structure="LogitsFloat",
    reads=(TensorField("x", FIXED_POINT),),
    writes=(TensorField("out"),),
    values=_count,
    cases=_logit_cases,
    layout="x int32 and out float32 [count]",
    arithmetic="saturated at 24 bits, times 2^-12: exact",
    sources=_SOURCES,
    model="product_int8.logits_float",
)
