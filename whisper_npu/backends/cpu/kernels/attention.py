"""Attention of the encoder over a whole window, in float32."""

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
from whisper_npu.backends.cpu.records import CpuKernel, Ops, TensorField, Values
from whisper_npu.model.graph import Op
from whisper_npu.ops.attention import split_heads
from whisper_npu.runtime.backend import Array


def _values(ops: Ops, a: Mapping[str, Array]) -> Values:  # 3 x [b, t, h * dh] -> [b, t, h * dh]
    b, t, d = a["q"].shape
    n_head = ops[0].attr("n_head")
    assert isinstance(n_head, int)
    d_head = d // n_head
    return {"b": b, "t": t, "n_head": n_head, "d_head": d_head, "scale": d_head**-0.5}


def _scratch(library: Library, args: Any, threads: int) -> int:
    return library.scratch_bytes("cpu_attention_scratch", args, threads)


def _cases(rng: Random) -> Iterator[OpCase]:
    for t, n_head, d_head in (
        (1, 1, 4),
        (5, 2, 8),
        (64, 3, 64),
        (65, 1, 16),
        (200, 2, 33),
        (311, 1, 64),
    ):
        op = Op("out", "attention", ("q", "k", "v"), ("out",), (("n_head", n_head),))
        shape = (2, t, n_head * d_head)
        for name, q in scaled_queries(rng, *shape):
            k, v = (rng.standard_normal(shape, np.float32) for _ in range(2))
            yield OpCase(
                f"{name} {shape}", (op,), (q, k, v), (np.empty_like(q),),
                partial(attention_bound, q, split_heads(k, n_head), split_heads(v, n_head)),
            )  # fmt: skip
    op = Op("out", "attention", ("q", "k", "v"), ("out",), (("n_head", 2),))
    for name, (q, k, v) in one_not_finite(rng, *[(1, 70, 48)] * 3):
        yield OpCase(
            name, (op,), (q, k, v), (np.empty_like(q),),
            partial(attention_bound, q, split_heads(k, 2), split_heads(v, 2)),
        )  # fmt: skip


ATTENTION = CpuKernel(
    name="cpu_attention",
    kinds=("attention",),
    structure="Attention",
    reads=(TensorField("q"), TensorField("k"), TensorField("v")),
    writes=(TensorField("out"),),
    values=_values,
    scratch=_scratch,
    cases=_cases,
    layout="all [b, t, heads * d_head]",
    arithmetic="softmax(scale q k^T) v in blocks of 24 queries over all keys, which lie packed",
    sources=("window_attention.h", "floats.cc", "float_vectors.h"),
    model="attention.attention",
    exactness=f"{WITHIN}, of the model; with e = 2^-24",
)
