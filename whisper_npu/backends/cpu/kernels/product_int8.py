"""Products of int8 or int16 rows with weights, in fixed-point numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import cycle
from typing import Any

import numpy as np

from whisper_npu.backends.cpu.library import Library
from whisper_npu.backends.cpu.op_case import OpCase, Random, fixed_point, integers
from whisper_npu.backends.cpu.records import (
    BYTES,
    FIXED_POINT,
    CpuKernel,
    Ops,
    TensorField,
    Values,
)
from whisper_npu.model.graph import Op
from whisper_npu.ops.arrays import F32
from whisper_npu.ops.rows import limit
from whisper_npu.runtime.backend import Array

# (m, k, n)
_PRODUCTS = (
    (1, 1, 1), (1, 384, 384), (1, 512, 66), (1, 768, 35), (1, 1536, 50), (1, 5120, 6), (1, 131, 70),
    (2, 240, 33), (3, 65, 7), (4, 63, 64), (5, 64, 130), (6, 128, 5), (7, 7, 19), (8, 384, 65),
    (11, 131, 67), (12, 127, 64), (13, 64, 64), (14, 66, 65), (16, 384, 384), (33, 129, 63),
    (37, 240, 200), (64, 1536, 66), (97, 192, 128), (520, 66, 70), (1, 384, 7001), (4099, 70, 66),
    (13, 65536, 2),
)  # fmt: skip
# Exponents of the scales of rows and of weights: results of a usual size, halves (a tie wherever a
# sum is odd), results that saturate, and results that are 0.
_EXPONENTS = ((-12, -20), (-6, -7), (10, 4), (-30, -30))


def _values(ops: Ops, a: Mapping[str, Array]) -> Values:
    # [..., k], [...], [n, k], [n], [n] -> [..., n]
    n, k = a["w"].shape
    return {"bits": 8 * a["x"].itemsize, "m": a["x_scale"].size, "k": k, "n": n}


def _scratch(library: Library, args: Any, threads: int) -> int:
    return library.scratch_bytes("cpu_product_int8_scratch", args.k)


def _rows(rng: Random, shape: tuple[int, ...], bits: int) -> Iterator[tuple[str, Array]]:
    """Rows of int8, or of int16 up to their limit: sums with weights reach the ends of int32."""
    most = limit(16, shape[-1])
    for name, x in integers(rng, shape):
        if bits == 8:
            yield name, x
            continue
        # Of the same signs and sizes, with low bytes of all values.
        low = rng.integers(0, most // 127, shape, endpoint=True)
        magnitudes = np.abs(x.astype(np.int64))
        wide = magnitudes * most // 127 - low * (magnitudes < 127)
        yield name, (wide * np.sign(x)).astype(np.int16)


def _scales(rng: Random, size: int, bits: int, exponent: int, plain: bool) -> F32:
    """Scales of so many bits; powers of two if ``plain``."""
    top = 1 << (bits - 1)
    mantissas = np.full(size, top) if plain else rng.integers(top, 2 * top, size)
    scales: F32 = np.ldexp(mantissas, exponent + 1 - bits).astype(np.float32)
    return scales


def _cases(rng: Random) -> Iterator[OpCase]:
    op = Op("out", "product_int8", ("x", "x_scale", "w", "w_scale", "bias"), ("out",))
    plain = Op("out", "product_int8", ("x", "x_scale", "w", "w_scale"), ("out",))
    sizes = cycle(enumerate(_EXPONENTS))
    for m, k, n in _PRODUCTS:
        biases = cycle(bias for _, bias in fixed_point(rng, (n,)))
        for bits in (8, 16):
            pairs = zip(_rows(rng, (m, k), bits), integers(rng, (n, k)), strict=True)
            for index, ((name, x), (_, w)) in enumerate(pairs):
                kind, (of_rows, of_weights) = next(sizes)
                x_scale = _scales(rng, m, 8, of_rows, kind == 1)
                # What a row of zeros has.
                x_scale[-1] *= m == 1
                w_scale = _scales(rng, n, 14, of_weights, kind == 1)
                bias = [next(biases)] if index % 3 != 1 else []
                yield OpCase(
                    f"{name} int{bits} {m}x{k}x{n} scales {kind}", (op if bias else plain,),
                    (x, x_scale, w, w_scale, *bias), (np.empty((m, n), np.int32),),
                )  # fmt: skip


PRODUCT_INT8 = CpuKernel(
    name="cpu_product_int8",
    kinds=("product_int8",),
    structure="ProductInt8",
    reads=(
        TensorField("x", BYTES, also="int16"), TensorField("x_scale"), TensorField("w", BYTES),
        TensorField("w_scale"), TensorField("bias", FIXED_POINT, optional=True),
    ),
    writes=(TensorField("out", FIXED_POINT),),
    values=_values,
    scratch=_scratch,
    cases=_cases,
    layout="x int8 or int16 [m, k], w [n, k] as in the model, bias int32 [n], out int32 [m, n], "
    "all row-major; scales [m] and [n]",
    arithmetic="int32 sums over all of k, times both scales in float64 (exact), rounded once, "
    "halves to even, plus the bias, saturated",
    notes=("Sums are exact for k up to 65,536.",),
    sources=("fixed_point.cc", "products.h", "product_vectors.h", "product_tiles.h"),
    model="product_int8.product_int8",
)  # fmt: skip
