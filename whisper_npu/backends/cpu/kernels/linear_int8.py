"""Products of integers with weights, exact to the last bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from whisper_npu.backends.cpu.library import Library
from whisper_npu.backends.cpu.op_case import OpCase, Random, integers, one_not_finite
from whisper_npu.backends.cpu.records import BYTES, CpuKernel, Ops, TensorField, Values
from whisper_npu.model.graph import Op
from whisper_npu.runtime.backend import Array

# (m, k, n)
_PRODUCTS = (
    (1, 1, 1), (1, 384, 384), (1, 1536, 50), (1, 5120, 6), (2, 240, 33), (3, 65, 7), (4, 63, 64),
    (5, 64, 130), (6, 128, 5), (7, 7, 19), (8, 384, 65), (12, 127, 64), (13, 64, 64), (14, 66, 65),
    (16, 384, 384), (33, 129, 63), (37, 240, 200), (64, 1536, 66), (97, 192, 128), (520, 66, 70),
    (1, 384, 7001), (4099, 70, 66),
)  # fmt: skip


def _values(ops: Ops, a: Mapping[str, Array]) -> Values:
    # [..., k], [...], [n, k], [n], [n] -> [..., n]
    n, k = a["w"].shape
    return {"m": a["x_scale"].size, "k": k, "n": n}


def _scratch(library: Library, args: Any, threads: int) -> int:
    return library.scratch_bytes("cpu_linear_int8_scratch", args.k)


def _cases(rng: Random) -> Iterator[OpCase]:
    op = Op("out", "linear_int8", ("x", "x_scale", "w", "w_scale", "bias"), ("out",))
    plain = Op("out", "linear_int8", ("x", "x_scale", "w", "w_scale"), ("out",))
    for m, k, n in _PRODUCTS:
        pairs = zip(integers(rng, (m, k)), integers(rng, (n, k)), strict=True)
        for i, ((name, x), (_, w)) in enumerate(pairs):
            scales = [rng.random(size, np.float32) for size in (m, n)]
            bias = [rng.standard_normal(n, np.float32)] if i % 2 == 0 else []
            yield OpCase(
                f"{name} {m}x{k}x{n}", (op if bias else plain,),
                (x, scales[0], w, scales[1], *bias), (np.empty((m, n), np.float32),),
            )  # fmt: skip
    for m, k, n in ((1, 70, 33), (5, 64, 70), (20, 66, 70)):
        x, w = (rng.integers(-127, 127, (size, k), np.int8, endpoint=True) for size in (m, n))
        for name, (x_scale, w_scale, added) in one_not_finite(rng, (m,), (n,), (n,)):
            yield OpCase(
                f"{name} {m}x{k}x{n}", (op,), (x, x_scale, w, w_scale, added),
                (np.empty((m, n), np.float32),),
            )  # fmt: skip


LINEAR_INT8 = CpuKernel(
    name="cpu_linear_int8",
    kinds=("linear_int8",),
    structure="LinearInt8",
    reads=(
        TensorField("x", BYTES), TensorField("x_scale"), TensorField("w", BYTES),
        TensorField("w_scale"), TensorField("bias", optional=True),
    ),
    writes=(TensorField("out"),),
    values=_values,
    scratch=_scratch,
    cases=_cases,
    layout="x [m, k], w [n, k] as in the checkpoint, out [m, n], all row-major; scales [m] and "
    "[n], bias [n]",
    arithmetic="int32 sums over all of k, to float32, times the row's scale, times the channel's, "
    "plus the bias, each rounded",
    notes=("Sums are exact for k up to 65,536.",),
    sources=("integers.cc", "integer_vectors.h"),
    model="quant.linear_int8",
)  # fmt: skip
