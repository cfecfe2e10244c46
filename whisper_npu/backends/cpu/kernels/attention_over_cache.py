"""Attention of the decoder: over its own keys and values so far, and over those of the audio."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from whisper_npu.backends.cpu.kernels.attention_bound import (
    WITHIN,
    attention_bound,
    scaled_queries,
)
from whisper_npu.backends.cpu.kernels.cache_places import cache_values, own_cache_values, places
from whisper_npu.backends.cpu.library import Library
from whisper_npu.backends.cpu.op_case import OpCase, Random, one_not_finite
from whisper_npu.backends.cpu.records import INTEGERS, CpuKernel, Ops, TensorField, Values
from whisper_npu.model.graph import Graph, Op
from whisper_npu.ops.arrays import F32, I64
from whisper_npu.ops.attention import own_caches
from whisper_npu.runtime.backend import Array

_STRUCTURE = "OverCache"
_SOURCES = ("floats.cc", "float_vectors.h")


def _cached_values(ops: Ops, a: Mapping[str, Array]) -> Values:
    # [b, n, h * dh], [slots, members, h, ctx, dh] of each, [w], [w] -> [b, n, h * dh]
    sizes = own_cache_values(a["q"], a["k"], a["slot"])
    return {**sizes, "scale": a["k"].shape[-1] ** -0.5}


def _cross_values(ops: Ops, a: Mapping[str, Array]) -> Values:
    # [w * g, n, h * dh], [slots, h, t, dh], [slots, h, t, dh], [w] -> [w * g, n, h * dh]
    sizes = cache_values(a["q"], a["k"], a["slot"])
    # All keys are seen.
    return {**sizes, "members": 1, "scale": a["k"].shape[-1] ** -0.5, "position": None}


def _scratch(library: Library, args: Any, threads: int) -> int:
    return library.scratch_bytes("cpu_over_cache_scratch", args)


def _cached_cases(rng: Random) -> Iterator[OpCase]:
    """Over caches with NaN behind what has been written, and where no window lies."""
    op = Op("out", "cached_attention", ("q", "k", "v", "position", "slot"), ("out",))
    for n_head, d_head, n, first in (
        (1, 4, 1, 0),
        (2, 64, 1, 37),
        (3, 33, 5, 0),
        (2, 16, 4, 60),
    ):
        for where in places(first, 64 - n):
            room = (where.all_slots, where.members, n_head, 64, d_head)
            for name, q in scaled_queries(rng, where.sequences, n, n_head * d_head):
                k, v = (rng.standard_normal(room, np.float32) for _ in range(2))
                for cache in (k, v):
                    where.spoil(cache, n, np.nan)
                yield OpCase(
                    f"{name} {q.shape} at {where.positions}", (op,),
                    (q, k, v, *where.inputs()), (np.empty_like(q),),
                    partial(_cached_bound, q, k, v, *where.inputs()),
                )  # fmt: skip
    # One query: what NumPy masks it still multiplies by 0, so that a NaN there is seen.
    for name, (q, k, v) in one_not_finite(rng, (2, 1, 48), *[(2, 3, 70, 16)] * 2):
        yield OpCase(
            name, (op,), (q, k[:, None], v[:, None], np.array([69, 69]), np.array([0, 1])),
            (np.empty_like(q),), partial(attention_bound, q, k, v),
        )  # fmt: skip


def _cached_bound(q: F32, k: F32, v: F32, position: I64, slot: I64) -> Array:
    keys, values = (own_caches(cache, position, slot, len(q)) for cache in (k, v))
    bounds = []
    for query, (first, own_k), (_, own_v) in zip(q, keys, values, strict=True):
        seen = first + len(query)
        bounds.append(
            attention_bound(query[None], own_k[None, :, :seen], own_v[None, :, :seen], first)
        )
    return np.concatenate(bounds)


CACHED_ATTENTION = CpuKernel(
    name="cpu_cached_attention",
    kinds=("cached_attention",),
    structure=_STRUCTURE,
    reads=(
        TensorField("q"), TensorField("k"), TensorField("v"),
        TensorField("position", INTEGERS), TensorField("slot", INTEGERS),
    ),
    writes=(TensorField("out"),),
    values=_cached_values,
    scratch=_scratch,
    cases=_cached_cases,
    layout="q and out [b, n, heads * d_head], k and v [slots, members, heads, ctx, d_head]; "
    "position and slot int64, of each window",
    arithmetic="softmax(scale q k^T) v over the keys so far",
    sources=_SOURCES,
    model="attention.cached_attention",
    exactness=f"{WITHIN}, of the model; with e = 2^-24",
)  # fmt: skip


def _refuses_scores(graph: Graph, ops: Ops) -> str | None:
    # They are for the words of a window, once.
    kept = ops[0].attr("heads")
    return "scores of alignment heads are kept; NumPy does that" if kept else None


# (n_head, d_head, n, t, sequences of a window)
_WINDOWS = ((1, 4, 1, 3, 1), (2, 64, 1, 300, 3), (3, 33, 5, 100, 2))


def _cross_cases(rng: Random) -> Iterator[OpCase]:
    """Of several sequences to the keys and values of their window, which lies anywhere."""
    op = Op("out", "cross_attention", ("q", "k", "v", "slot"), ("out",), (("heads", ()),))
    for n_head, d_head, n, t, group in _WINDOWS:
        for name, q in scaled_queries(rng, 2 * group, n, n_head * d_head):
            k, v = (rng.standard_normal((3, n_head, t, d_head), np.float32) for _ in range(2))
            for slot in (np.array([0, 1]), np.array([2, 0])):
                yield OpCase(
                    f"{name} {q.shape} over {t}, slots {slot}", (op,), (q, k, v, slot),
                    (np.empty_like(q),), partial(attention_bound, q, k[slot], v[slot]),
                )  # fmt: skip
    slot = np.array([0, 1])
    for name, (q, k, v) in one_not_finite(rng, (4, 3, 48), *[(2, 3, 70, 16)] * 2):
        bound = partial(attention_bound, q, k, v)
        yield OpCase(name, (op,), (q, k, v, slot), (np.empty_like(q),), bound)


CROSS_ATTENTION = CpuKernel(
    name="cpu_cross_attention",
    kinds=("cross_attention",),
    structure=_STRUCTURE,
    reads=(TensorField("q"), TensorField("k"), TensorField("v"), TensorField("slot", INTEGERS)),
    writes=(TensorField("out"),),
    values=_cross_values,
    scratch=_scratch,
    refuses=_refuses_scores,
    cases=_cross_cases,
    layout="q and out [w * g, n, heads * d_head], k and v [slots, heads, t, d_head]; slot int64, "
    "of each window",
    arithmetic="softmax(scale q k^T) v over all keys; scores are not kept",
    sources=_SOURCES,
    model="attention.cross_attention",
    exactness=f"{WITHIN}, of the model; with e = 2^-24",
)
