"""Attention of the encoder over a whole window, in float32 and in 16-bit integers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from whisper_npu.backends.cpu.kernels.attention_bound import (
    WITHIN,
    attention_bound,
    scaled_queries,
)
from whisper_npu.backends.cpu.library import Library
from whisper_npu.backends.cpu.op_case import EPSILON, OpCase, Random, one_not_finite
from whisper_npu.backends.cpu.records import CpuKernel, Ops, TensorField, Values
from whisper_npu.model.graph import Op
from whisper_npu.ops.arrays import F32
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


def _cases(
    bound: Callable[[F32, F32, F32], Array], rms_share: float | None, infinite: bool, rng: Random
) -> Iterator[OpCase]:
    """``bound`` is of queries, and of keys and values that are split by heads. ``infinite`` says
    that these may be infinite."""
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
                partial(bound, q, split_heads(k, n_head), split_heads(v, n_head)), rms_share,
            )  # fmt: skip
    op = Op("out", "attention", ("q", "k", "v"), ("out",), (("n_head", 2),))
    for name, (q, k, v) in one_not_finite(rng, *[(1, 70, 48)] * 3):
        if not infinite and np.isinf([k, v]).any():
            continue
        yield OpCase(
            name, (op,), (q, k, v), (np.empty_like(q),),
            partial(bound, q, split_heads(k, 2), split_heads(v, 2)),
        )  # fmt: skip


ATTENTION = CpuKernel(
    name="cpu_attention",
    kinds=("attention",),
    structure="Attention",
    reads=(TensorField("q"), TensorField("k"), TensorField("v")),
    writes=(TensorField("out"),),
    values=_values,
    scratch=_scratch,
    cases=partial(_cases, attention_bound, None, True),
    layout="all [b, t, heads * d_head]",
    arithmetic="softmax(scale q k^T) v in blocks of 24 queries over all keys, which lie packed",
    sources=("window_attention.h", "floats.cc", "float_vectors.h"),
    model="attention.attention",
    exactness=f"{WITHIN}, of the model; with e = 2^-24",
)


# The largest integer of weights and values, and the keys that share a scale.
_LARGEST_INTEGER = 5792
_BLOCK_KEYS = 64


def _int16_bound(q: F32, k: F32, v: F32) -> Array:
    """Eight standard deviations of what rounding to integers does to an output.

    A rounding is off by a twelfth of its step squared, in the mean and by itself: of a query and a
    key with a step for each row, which move scores; of a weight with a step for its 64 keys; of a
    value with one for its column. A weight off by dw moves an output by dw (value - output).
    """
    d_head, t = q.shape[2] // k.shape[1], k.shape[2]
    queries = split_heads(q, k.shape[1]).astype(np.float64)
    keys, values = k.astype(np.float64), v.astype(np.float64)
    scores = queries @ keys.transpose(0, 1, 3, 2) * d_head**-0.5
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    step = 1 / min(32767.0, (2147483000 / d_head) ** 0.5 - 1)
    query_step = step * np.abs(queries).max(axis=-1, keepdims=True)
    key_step = step * np.abs(keys).max(axis=-1)[:, :, None]
    moved = query_step**2 * np.square(keys).sum(axis=-1)[:, :, None]
    moved = moved + key_step**2 * np.square(queries).sum(axis=-1, keepdims=True)
    off = np.square(weights) * moved / d_head
    for start in range(0, t, _BLOCK_KEYS):
        block = slice(start, start + _BLOCK_KEYS)
        top = weights[..., block].max(axis=-1, keepdims=True)
        off[..., block] += np.square(top / _LARGEST_INTEGER)
    mixed = weights @ values
    squares = off @ np.square(values) - 2 * mixed * (off @ values)
    squares += np.square(mixed) * off.sum(axis=-1, keepdims=True)
    value_step = np.abs(values).max(axis=2, keepdims=True) / _LARGEST_INTEGER
    squares += np.square(weights).sum(axis=-1, keepdims=True) * np.square(value_step)
    deviation = np.sqrt(np.maximum(squares, 0) / 12) + 2 * EPSILON * (weights @ np.abs(values))
    merged: Array = 8 * deviation.transpose(0, 2, 1, 3).reshape(q.shape)
    return merged


ATTENTION_INT16 = CpuKernel(
    name="cpu_attention_int16",
    kinds=("attention",),
    structure="Attention",
    reads=ATTENTION.reads,
    writes=ATTENTION.writes,
    values=_values,
    scratch=_scratch,
    # Faster than the one in floats, where there is one.
    rank=1,
    int8_models_only=True,
    # An eighth is what the bound predicts.
    cases=partial(_cases, _int16_bound, 0.155, False),
    layout="all [b, t, heads * d_head]",
    arithmetic="softmax(scale q k^T) v in products of 16-bit integers with exact 32-bit sums over "
    "d_head, and over 64 keys at a time for 48 queries; a scale for each query, key and column of "
    "v; for INT8 models",
    sources=("window_attention_int16.h", "floats.cc"),
    model="attention.attention",
    exactness="within: 8 standard deviations s of the model, and 1.24 s in the root mean square of "
    "1,000 outputs and more; 12 s^2 = sum((p^2 m + (P / 5792)^2) (v - out)^2) + sum(p^2) (max |v| "
    "/ 5792)^2, with m = step^2 (max |q|^2 sum(k^2) + max |k|^2 sum(q^2)) / d_head, step = 1 / "
    "sqrt(2^31 / d_head), P the largest weight of the 64 keys of a block, max |v| of the column; "
    "and 2^-23 sum(p |v|) more",
)
