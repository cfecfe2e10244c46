"""GELU and sums, element by element."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from whisper_npu.backends.cpu.op_case import EPSILON, OpCase, Random, floats, not_finite
from whisper_npu.backends.cpu.records import CpuKernel, Ops, TensorField, Values
from whisper_npu.model.graph import Op
from whisper_npu.ops.arrays import F32
from whisper_npu.runtime.backend import Array

_SOURCES = ("floats.cc", "float_vectors.h")


def _gelu_values(ops: Ops, a: Mapping[str, Array]) -> Values:  # [...] -> [...]
    return {"count": a["x"].size}


def _gelu_cases(rng: Random) -> Iterator[OpCase]:
    op = Op("out", "gelu", ("x",), ("out",))
    for shape in ((1,), (3, 5), (16,), (2, 63), (7, 1536), (40, 257)):
        for name, x in (*floats(rng, shape), *not_finite(rng, shape)):
            yield OpCase(
                f"{name} {shape}", (op,), (x,), (np.empty_like(x),), partial(_gelu_bound, x)
            )


def _gelu_bound(x: F32) -> Array:
    """The formula of the specification is itself 5e-7 off at most, near 5."""
    bound: Array = 8 * EPSILON * (1 + np.abs(x))
    return bound


GELU = CpuKernel(
    name="cpu_gelu",
    kinds=("gelu",),
    structure="Gelu",
    reads=(TensorField("x"),),
    writes=(TensorField("out"),),
    values=_gelu_values,
    in_place=True,
    cases=_gelu_cases,
    layout="x and out [count]",
    arithmetic="x / (1 + e^-t), t = x g(x^2 / 4), x between -6 and 6 in t: the tanh form of erf as "
    "a logistic function",
    sources=_SOURCES,
    model="activation.gelu",
    exactness="within: 8 e (1 + |x|) of the model; with e = 2^-24",
)


def _add_values(ops: Ops, a: Mapping[str, Array]) -> Values:
    # [..., n], [n] or [..., n] -> [..., n]
    return {"count": a["x"].size, "period": a["y"].size}


def _add_cases(rng: Random) -> Iterator[OpCase]:
    op = Op("out", "add", ("x", "y"), ("out",))
    for shape, rest in (((1, 3), 1), ((2, 5, 33), 1), ((3, 64, 48), 0), ((20, 700), 0)):
        for name, x in (*floats(rng, shape), *not_finite(rng, shape)):
            y = rng.standard_normal(shape[1:] if rest else shape, np.float32)
            yield OpCase(f"{name} {shape}", (op,), (x, y), (np.empty_like(x),))


ADD = CpuKernel(
    name="cpu_add",
    kinds=("add",),
    structure="Add",
    reads=(TensorField("x"), TensorField("y")),
    writes=(TensorField("out"),),
    values=_add_values,
    in_place=True,
    cases=_add_cases,
    layout="x and out [count], y [period], which repeats",
    arithmetic="x + y",
    sources=_SOURCES,
    exactness="within: 0 of numpy.add",
)
