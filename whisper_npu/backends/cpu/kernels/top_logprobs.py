"""The likeliest tokens and their logprobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from whisper_npu.backends.cpu.library import Library
from whisper_npu.backends.cpu.op_case import EPSILON, OpCase, Random, floats, not_finite
from whisper_npu.backends.cpu.records import INTEGERS, CpuKernel, Ops, TensorField, Values
from whisper_npu.model.graph import Op
from whisper_npu.ops.arrays import F32
from whisper_npu.runtime.backend import Array


def _values(ops: Ops, a: Mapping[str, Array]) -> Values:  # [m, n] -> [m, k], [m, k]
    m, n = a["x"].shape
    return {"m": m, "n": n, "k": a["tokens"].shape[1]}


def _scratch(library: Library, args: Any, threads: int) -> int:
    # The function gives what all threads need together.
    return -(-library.scratch_bytes("cpu_top_logprobs_scratch", args) // threads)


def _scratch_int32(library: Library, args: Any, threads: int) -> int:
    return -(-library.scratch_bytes("cpu_top_logprobs_int32_scratch", args) // threads)


def _cases(rng: Random) -> Iterator[OpCase]:
    for m, n, k in _SHAPES:
        for name, x in _logits(rng, (m, n)):
            yield _case("top_logprobs", name, x, k)._replace(allowed=partial(_bound, x, k))


def _cases_int32(rng: Random) -> Iterator[OpCase]:
    for m, n, k in _SHAPES:
        for name, x in _logits(rng, (m, n)):
            yield _case("top_logprobs_int32", name, x, k)
            if np.isfinite(x).any() and abs(x[np.isfinite(x)]).max() < 4096:
                fixed = np.round(x * np.float32(4096)) / np.float32(4096)
                yield _case("top_logprobs_int32", f"fixed-point {name}", fixed, k)
        # All distances that have a weight, and some that have none.
        distances = np.arange(m * n, dtype=np.float32).reshape(m, n) % 91_000
        yield _case("top_logprobs_int32", "all distances", -distances / np.float32(4096), k)
        steps = rng.integers(-(2**24) + 1, 2**24, (m, n)).astype(np.float32)
        yield _case("top_logprobs_int32", "extremes", steps / np.float32(4096), k)


_SHAPES = (
    (1, 1, 1), (3, 7, 7), (2, 513, 6), (5, 3000, 1), (40, 700, 6), (2, 51866, 1), (3, 51865, 6),
)  # fmt: skip


def _case(kind: str, name: str, x: F32, k: int) -> OpCase:  # [m, n] -> [m, k], [m, k]
    m, n = x.shape
    op = Op("tokens", kind, ("x",), ("tokens", "logprobs"), (("k", k),))
    outputs = np.empty((m, k), np.int64), np.empty((m, k), np.float32)
    return OpCase(f"{name} {m}x{n}, {k}", (op,), (x,), outputs)


def _logits(rng: Random, shape: tuple[int, ...]) -> Iterator[tuple[str, F32]]:
    yield from floats(rng, shape)
    if shape[1] < 10_000:
        yield from not_finite(rng, shape)
    some = rng.standard_normal(shape, np.float32) * np.float32(6)
    yield "of a model", some
    yield "equal ones", np.round(some)
    yield "all equal", np.full(shape, -3, np.float32)
    forbidden = np.where(rng.random(shape) < 0.5, some, -np.inf).astype(np.float32)
    forbidden[:, shape[1] // 3 : shape[1] // 2] = -np.inf
    yield "half forbidden", forbidden
    few = np.full(shape, -np.inf, np.float32)
    few[:, -1] = some[:, 0]
    few[:, shape[1] // 2] = some[:, -1]
    yield "few allowed", few
    yield "none allowed", np.full(shape, -np.inf, np.float32)


def _bound(x: F32, k: int) -> Array:
    """Roundings of differences from the largest, of their exponentials, and of the sum."""
    wide = np.sort(x.astype(np.float64), axis=1)[:, ::-1]
    below = np.where(np.isfinite(wide), wide - wide[:, :1], -1e5)
    weights = np.exp(below)
    weights /= weights.sum(axis=1, keepdims=True)
    of_sum = 64 - 4 * (weights * below).sum(axis=1, keepdims=True)
    bound: Array = EPSILON * (of_sum - 4 * (below[:, :k] + np.log(weights[:, :1])))
    return bound


TOP_LOGPROBS = CpuKernel(
    name="cpu_top_logprobs",
    kinds=("top_logprobs",),
    structure="TopLogprobs",
    reads=(TensorField("x"),),
    writes=(TensorField("tokens", INTEGERS), TensorField("logprobs")),
    values=_values,
    scratch=_scratch,
    cases=_cases,
    layout="x [m, n], tokens int64 and logprobs [m, k]",
    arithmetic="x - max - log(sum(e^(x - max))) of the k largest, the first of equal ones before "
    "the others; sums in pieces of 512",
    sources=("floats.cc", "float_vectors.h"),
    model="choice.top_logprobs",
    exactness="within: (64 + 4 sum(p (max - x)) - 4 logprob) e of the model, tokens exact; with "
    "e = 2^-24",
)

TOP_LOGPROBS_INT32 = CpuKernel(
    name="cpu_top_logprobs_int32",
    kinds=("top_logprobs_int32",),
    structure="TopLogprobs",
    reads=(TensorField("x"),),
    writes=(TensorField("tokens", INTEGERS), TensorField("logprobs")),
    values=_values,
    scratch=_scratch_int32,
    cases=_cases_int32,
    layout="x [m, n], tokens int64 and logprobs [m, k]",
    arithmetic="x - max - log(sum(e^(x - max))) of the k largest, the first of equal ones before "
    "the others; exponentials, sum and logarithm in integers",
    sources=("choice_int.h", "floats.cc"),
    model="choice.top_logprobs_int32",
)
