"""Layer norm with gain and bias."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from whisper_npu.backends.cpu.op_case import EPSILON, OpCase, Random, floats, not_finite
from whisper_npu.backends.cpu.records import CpuKernel, Ops, TensorField, Values
from whisper_npu.model.graph import Op
from whisper_npu.ops.arrays import F32
from whisper_npu.runtime.backend import Array


def _values(ops: Ops, a: Mapping[str, Array]) -> Values:  # [..., d], [d], [d] -> [..., d]
    d = a["gain"].size
    return {"m": a["x"].size // d, "d": d}


def _cases(rng: Random) -> Iterator[OpCase]:
    op = Op("out", "layer_norm", ("x", "gain", "bias"), ("out",))
    for shape in ((1, 1), (2, 3, 5), (1, 384), (3, 63), (2, 65), (7, 512), (50, 1280)):
        for name, x in floats(rng, shape):
            for shift in (0, 3):
                gain, bias = rng.standard_normal((2, shape[-1]), np.float32)
                moved = x + np.float32(shift)
                yield OpCase(
                    f"{name} + {shift} {shape}", (op,), (moved, gain, bias), (np.empty_like(x),),
                    partial(_bound, moved, gain, bias),
                )  # fmt: skip
    for shape in ((3, 5), (3, 384)):
        for name, x in not_finite(rng, shape):
            gain, bias = rng.standard_normal((2, shape[-1]), np.float32)
            yield OpCase(
                f"{name} {shape}", (op,), (x, gain, bias), (np.empty_like(x),),
                partial(_bound, x, gain, bias),
            )  # fmt: skip


def _bound(x: F32, gain: F32, bias: F32) -> Array:
    """Roundings of the largest input, in units of the standard deviation, times the gain."""
    wide = x.astype(np.float64)
    deviation = np.sqrt(wide.var(axis=-1, keepdims=True) + 1e-5)
    largest = np.abs(wide).max(axis=-1, keepdims=True)
    # NumPy adds up the squares one after the other.
    roundings = 16 + 2 * x.shape[-1] ** 0.5
    bound: Array = roundings * EPSILON * (largest / deviation * np.abs(gain) + np.abs(bias))
    return bound


LAYER_NORM = CpuKernel(
    name="cpu_layer_norm",
    kinds=("layer_norm",),
    structure="LayerNorm",
    reads=(TensorField("x"), TensorField("gain"), TensorField("bias")),
    writes=(TensorField("out"),),
    values=_values,
    cases=_cases,
    layout="x and out [m, d], gain and bias [d]",
    arithmetic="(x - mean) / sqrt(variance + 1e-5) * gain + bias, sums in lanes",
    sources=("floats.cc", "float_vectors.h"),
    model="linear.layer_norm",
    exactness="within: (16 + 2 sqrt(d)) e (|gain| max |x| / deviation + |bias|) of the model; with "
    "e = 2^-24",
)
