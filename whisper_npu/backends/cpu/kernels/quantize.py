"""Quantisation of rows: of activations, and of cross keys and values by heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from whisper_npu.backends.cpu.op_case import HEADS, OpCase, Random, rows_to_round, split_sizes
from whisper_npu.backends.cpu.records import BYTES, CpuKernel, Ops, TensorField, Values
from whisper_npu.model.graph import Op
from whisper_npu.runtime.backend import Array

_SOURCES = ("integers.cc", "integer_vectors.h")


def _row_values(ops: Ops, a: Mapping[str, Array]) -> Values:  # [..., k] -> [..., k], [...]
    return {"m": a["scale"].size, "k": a["x"].shape[-1]}


def _row_cases(rng: Random) -> Iterator[OpCase]:
    op = Op("values", "quantize_rows", ("x",), ("values", "scale"))
    for shape in ((1, 384), (3, 1), (5, 15), (4, 16), (7, 240), (2, 9, 65), (40, 1280), (500, 33)):
        for name, x in rows_to_round(rng, shape):
            yield OpCase(f"{name} {shape}", (op,), (x,), _outputs(shape))


def _outputs(shape: tuple[int, ...]) -> tuple[Array, ...]:
    return np.empty(shape, np.int8), np.empty(shape[:-1], np.float32)


QUANTIZE_ROWS = CpuKernel(
    name="cpu_quantize_rows",
    kinds=("quantize_rows",),
    structure="QuantizeRows",
    reads=(TensorField("x"),),
    writes=(TensorField("values", BYTES), TensorField("scale")),
    values=_row_values,
    cases=_row_cases,
    layout="x and values [m, k], scale [m], all row-major",
    arithmetic="scale = max |x| / 127; values = x * (127 / max |x|), half to even; zeros for a row "
    "whose maximum is below 1e-30 or not finite",
    sources=_SOURCES,
    model="quant.quantize_rows",
)


def _head_values(ops: Ops, a: Mapping[str, Array]) -> Values:
    # [b, t, h * dh] -> [b, h, t, dh], [b, h, t]
    return split_sizes(a["values"])


def _head_cases(rng: Random) -> Iterator[OpCase]:
    for b, t, n_head, d_head in HEADS:
        op = Op("values", "quantize_heads", ("x",), ("values", "scale"), (("n_head", n_head),))
        for name, x in rows_to_round(rng, (b, t, n_head * d_head)):
            outputs = _outputs((b, n_head, t, d_head))
            yield OpCase(f"{name} {x.shape}, {n_head} heads", (op,), (x,), outputs)


QUANTIZE_HEADS = CpuKernel(
    name="cpu_quantize_heads",
    kinds=("quantize_heads",),
    structure="QuantizeHeads",
    reads=(TensorField("x"),),
    writes=(TensorField("values", BYTES), TensorField("scale")),
    values=_head_values,
    cases=_head_cases,
    layout="x [b, t, heads * d_head], values [b, heads, t, d_head], scale [b, heads, t]",
    arithmetic="as quantize_rows, of rows of d_head",
    sources=_SOURCES,
    model="attention.quantize_heads",
)
