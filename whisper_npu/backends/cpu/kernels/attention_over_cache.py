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
from whisper_npu.backends.cpu.library import Library
from whisper_npu.backends.cpu.op_case import OpCase, Random, one_not_finite
from whisper_npu.backends.cpu.records import INTEGERS, CpuKernel, Ops, TensorField, Values
from whisper_npu.model.graph import Graph, Op
from whisper_npu.ops.arrays import F32
from whisper_npu.runtime.backend import Array

_STRUCTURE = "OverCache"
_SOURCES = ("floats.cc", "float_vectors.h")


def _values(ops: Ops, a: Mapping[str, Array]) -> Values:
    # [a * g, n, h * dh], [a, h, t, dh], [a, h, t, dh] -> [a * g, n, h * dh]
    """Raises ValueError for keys and values that lie apart differently."""
    k, v = a["k"], a["v"]
    if k.strides != v.strides:
        raise ValueError(
            f"op {ops[0].name}: {ops[0].inputs[1]} lies with strides {k.strides}, "
            f"{ops[0].inputs[2]} with {v.strides}"
        )
    sequences, n, _ = a["q"].shape
    audios, n_head, t, d_head = k.shape
    return {
        "b": sequences, "n": n, "group": sequences // audios, "t": t, "n_head": n_head,
        "d_head": d_head, "stride": k.strides[0] // k.itemsize, "scale": d_head**-0.5,
        # Null, unless it is an argument.
        "position": None,
    }  # fmt: skip


def _scratch(library: Library, args: Any, threads: int) -> int:
    return library.scratch_bytes("cpu_over_cache_scratch", args)


def _cached_cases(rng: Random) -> Iterator[OpCase]:
    """Over caches with NaN behind what has been written; also of sequences that lie apart."""
    op = Op("out", "cached_attention", ("q", "k", "v", "position"), ("out",))
    for n_head, d_head, n, position in (
        (1, 4, 1, 0),
        (2, 64, 1, 37),
        (3, 33, 5, 0),
        (2, 16, 4, 60),
    ):
        for name, q in scaled_queries(rng, 4, n, n_head * d_head):
            # Behind what has been written lies what was left there.
            k, v = (rng.standard_normal((4, 2, n_head, 64, d_head), np.float32) for _ in range(2))
            for cache in (k, v):
                cache[:, :, :, position + n :] = np.nan
            first = [k[:, 0], v[:, 0]]
            for caches in ([np.ascontiguousarray(cache) for cache in first], first):
                yield OpCase(
                    f"{name} {q.shape} at {position}", (op,),
                    (q, *caches, np.array(position)), (np.empty_like(q),),
                    partial(_cached_bound, q, caches[0], caches[1], position),
                )  # fmt: skip
    # One query: what NumPy masks it still multiplies by 0, so that a NaN there is seen.
    for name, (q, k, v) in one_not_finite(rng, (2, 1, 48), *[(2, 3, 70, 16)] * 2):
        yield OpCase(
            name, (op,), (q, k, v, np.array(69)), (np.empty_like(q),),
            partial(attention_bound, q, k, v),
        )  # fmt: skip


def _cached_bound(q: F32, k: F32, v: F32, position: int) -> Array:
    seen = position + q.shape[1]
    return attention_bound(q, k[:, :, :seen], v[:, :, :seen], position)


CACHED_ATTENTION = CpuKernel(
    name="cpu_cached_attention",
    kinds=("cached_attention",),
    structure=_STRUCTURE,
    # The first sequences of some that lie further apart are caches too.
    reads=(
        TensorField("q"), TensorField("k", apart=True), TensorField("v", apart=True),
        TensorField("position", INTEGERS),
    ),
    writes=(TensorField("out"),),
    values=_values,
    scratch=_scratch,
    cases=_cached_cases,
    layout="q and out [b, n, heads * d_head], k and v [b, heads, ctx, d_head], apart by any number "
    "of floats in b; position int64",
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
    """Of several sequences to the keys and values of their window."""
    op = Op("out", "cross_attention", ("q", "k", "v"), ("out",), (("heads", ()),))
    for n_head, d_head, n, t, group in _WINDOWS:
        for name, q in scaled_queries(rng, 2 * group, n, n_head * d_head):
            k, v = (rng.standard_normal((2, n_head, t, d_head), np.float32) for _ in range(2))
            yield OpCase(
                f"{name} {q.shape} over {t}", (op,), (q, k, v), (np.empty_like(q),),
                partial(attention_bound, q, k, v),
            )  # fmt: skip
    for name, (q, k, v) in one_not_finite(rng, (4, 3, 48), *[(2, 3, 70, 16)] * 2):
        yield OpCase(name, (op,), (q, k, v), (np.empty_like(q),), partial(attention_bound, q, k, v))


CROSS_ATTENTION = CpuKernel(
    name="cpu_cross_attention",
    kinds=("cross_attention",),
    structure=_STRUCTURE,
    reads=(TensorField("q"), TensorField("k", apart=True), TensorField("v", apart=True)),
    writes=(TensorField("out"),),
    values=_values,
    scratch=_scratch,
    refuses=_refuses_scores,
    cases=_cross_cases,
    layout="q and out [a * g, n, heads * d_head], k and v [a, heads, t, d_head]",
    arithmetic="softmax(scale q k^T) v over all keys; scores are not kept",
    sources=_SOURCES,
    model="attention.cross_attention",
    exactness=f"{WITHIN}, of the model; with e = 2^-24",
)
