"""Quantisation of fixed-point numbers: rows, with and without a norm, and columns of heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from whisper_npu.backends.cpu.op_case import HEADS, OpCase, Random, fixed_point, split_sizes
from whisper_npu.backends.cpu.records import (
    BYTES,
    FIXED_POINT,
    CpuKernel,
    Ops,
    TensorField,
    Values,
)
from whisper_npu.backends.numpy.specification import fraction_of
from whisper_npu.model.graph import Op
from whisper_npu.ops.arrays import I32
from whisper_npu.ops.fixed import FEATURE_FRACTION, FRACTION, LARGEST
from whisper_npu.ops.rows import limit
from whisper_npu.runtime.backend import Array

_SOURCES = ("fixed_point.cc", "fixed_rows.h", "fixed_vectors.h", "numbers.h")
_SHAPES = ((1, 384), (3, 1), (5, 15), (4, 16), (7, 240), (2, 9, 65), (40, 1280), (500, 33))
_ROUNDING = "values = rint(x * r), halves to even, exact in float64 before it is rounded"


def _bits(a: Mapping[str, Array]) -> int:
    return 8 * a["values"].itemsize


def _row_values(ops: Ops, a: Mapping[str, Array]) -> Values:  # [..., k] -> [..., k], [...]
    fraction, k = fraction_of(ops[0]), a["x"].shape[-1]
    return {"bits": _bits(a), "fraction": fraction, "m": a["scale"].size, "k": k}


def _norm_values(ops: Ops, a: Mapping[str, Array]) -> Values:  # [..., d] -> [..., d], [...]
    return {"bits": _bits(a), "m": a["scale"].size, "d": a["x"].shape[-1]}


def _outputs(shape: tuple[int, ...], bits: int) -> tuple[Array, ...]:
    return np.empty(shape, f"int{bits}"), np.empty(shape[:-1], np.float32)


def _rows(rng: Random, shape: tuple[int, ...], bits: int) -> Iterator[tuple[str, I32]]:
    """Rows that are hard to quantise: of very different sizes, and next to where scales change."""
    yield from fixed_point(rng, shape)
    *_, k = shape
    rows = int(np.prod(shape[:-1]))
    x = rng.integers(-LARGEST, LARGEST, (rows, k), np.int32, endpoint=True)
    x >>= rng.integers(0, 31, (rows, 1), np.int32)
    x[0] = 0
    yield "rows of all sizes", x.reshape(shape)
    # The largest magnitude is a scale times the limit, or one off it.
    most = limit(bits, k)
    for beside in (-1, 0, 1):
        mantissa, exponent = rng.integers(128, 257, rows), rng.integers(-7, 24, rows)
        largest = np.ldexp(mantissa * float(most), exponent) + beside
        largest = np.minimum(largest, LARGEST).astype(np.int64)
        share = rng.integers(-2 * most, 2 * most, (rows, k), endpoint=True) / (2 * most)
        x = np.rint(share * largest[:, None]).astype(np.int32)
        x[:, 0] = largest * rng.choice([-1, 1], rows)
        yield f"limit {beside:+}", x.reshape(shape)
    # Scales of powers of two, and halves of them: ties are rounded to even.
    unit = rng.integers(1, 24, (rows, 1), np.int32)
    x = np.minimum(rng.integers(-most, most, (rows, k)) * 2 + 1, 2 * most - 1) << (unit - 1)
    x[:, 0] = most << unit[:, 0] if bits == 8 else LARGEST
    yield "ties", np.clip(x, -LARGEST, LARGEST).astype(np.int32).reshape(shape)


def _row_cases(rng: Random) -> Iterator[OpCase]:
    for bits in (8, 16):
        for index, shape in enumerate(_SHAPES):
            fraction = FEATURE_FRACTION if index % 3 == 0 else FRACTION
            attributes = (("bits", bits), ("fraction", fraction))
            op = Op("values", "quantize_int32", ("x",), ("values", "scale"), attributes)
            for name, x in _rows(rng, shape, bits):
                yield OpCase(f"{name} {shape} int{bits}", (op,), (x,), _outputs(shape, bits))


QUANTIZE_INT32 = CpuKernel(
    name="cpu_quantize_int32",
    kinds=("quantize_int32",),
    structure="QuantizeInt32",
    reads=(TensorField("x", FIXED_POINT),),
    writes=(TensorField("values", BYTES, also="int16"), TensorField("scale")),
    values=_row_values,
    cases=_row_cases,
    layout="x int32 and values int8 or int16 [m, k], scale [m], all row-major",
    arithmetic=f"the smallest scale of 8 bits; {_ROUNDING}, r a reciprocal of 21 bits",
    sources=_SOURCES,
    model="rows.quantize_int32",
)


def _norm_cases(rng: Random) -> Iterator[OpCase]:
    for bits in (8, 16):
        op = Op("values", "rms_norm", ("x",), ("values", "scale"), (("bits", bits),))
        for shape in _SHAPES:
            for name, x in _rows(rng, shape, bits):
                yield OpCase(f"{name} {shape} int{bits}", (op,), (x,), _outputs(shape, bits))


RMS_NORM = CpuKernel(
    name="cpu_rms_norm",
    kinds=("rms_norm",),
    structure="RmsNorm",
    reads=(TensorField("x", FIXED_POINT),),
    writes=(TensorField("values", BYTES, also="int16"), TensorField("scale")),
    values=_norm_values,
    cases=_norm_cases,
    layout="x int32 and values int8 or int16 [m, d], scale [m], all row-major",
    arithmetic=f"sum of squares in int64, its root in integers; {_ROUNDING}",
    sources=_SOURCES,
    model="rows.rms_norm",
)


def _column_values(ops: Ops, a: Mapping[str, Array]) -> Values:
    # [b, t, h * dh] -> [b, h, t, dh], [b, h, dh]
    return split_sizes(a["values"])


def _column_cases(rng: Random) -> Iterator[OpCase]:
    for b, t, n_head, d_head in (*HEADS, (2, 9, 2, 130)):
        op = Op("values", "quantize_columns", ("x",), ("values", "scale"), (("n_head", n_head),))
        shape = (b, t, n_head * d_head)
        columns = rng.integers(-LARGEST, LARGEST, shape, np.int32, endpoint=True)
        columns >>= rng.integers(0, 31, shape[-1], np.int32)
        for name, x in (*fixed_point(rng, shape), ("columns of all sizes", columns)):
            outputs = (
                np.empty((b, n_head, t, d_head), np.int8),
                np.empty((b, n_head, d_head), np.float32),
            )
            yield OpCase(f"{name} {shape}, {n_head} heads", (op,), (x,), outputs)


QUANTIZE_COLUMNS = CpuKernel(
    name="cpu_quantize_columns",
    kinds=("quantize_columns",),
    structure="QuantizeColumns",
    reads=(TensorField("x", FIXED_POINT),),
    writes=(TensorField("values", BYTES), TensorField("scale")),
    values=_column_values,
    cases=_column_cases,
    layout="x int32 [b, t, heads * d_head], values int8 [b, heads, t, d_head], scale [b, heads, "
    "d_head]",
    arithmetic="shifts that leave 7 bits of a column, rounded half up, within 127",
    sources=_SOURCES,
    model="attention_int.quantize_columns",
)
