"""Products of quantised rows with int8 weights, as products of floats that are exact.

Both ways compute ``ops.product_int8.product_int8`` to the bit. Many rows are multiplied in float64
with the scales multiplied in beforehand: a sum of 31 bits and scales of 8 and 14 bits make 53, and
every partial sum is a multiple of the same unit. With few rows the reading of weights takes the
time: they stay float32, and rows of 16 bits become two of which float32 holds every sum.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from whisper_npu.ops.arrays import F32, I32
from whisper_npu.ops.fixed import F64, FRACTION, saturate
from whisper_npu.ops.rows import Integers
from whisper_npu.runtime.backend import Array, Shape
from whisper_npu.runtime.workers import Workers, cut, scratch_arrays, size_of, spans

# A product of at most this many rows is done row by row, which is several times faster.
FEW_ROWS = 8
# Rows that a thread multiplies together.
_BLOCK = 256
# Columns of a weight that all rows are multiplied with before the next are read.
_COLUMNS = 4096
# A float32 product is exact while every partial sum stays below 2**24; 128 * 127 * 1024 does.
_EXACT_K = 1024
# What a 16-bit number is divided by: quotient and rest are within [-128, 128].
_RADIX = 256.0
_ONE = 2.0**FRACTION


class _Scales:
    """The scales of a weight and its bias: what turns sums into results."""

    def __init__(self, w_scale: F32, bias: I32 | None) -> None:  # [n], [n]
        self.wide = w_scale.astype(np.float64)
        self._bias = bias
        # A sum is below 2**31. Rows with scales up to this one give nothing that saturates.
        room = 2.0**30 - (0.0 if bias is None else float(np.abs(bias).max(initial=0)))
        self._harmless = room / (2.0**31 * _ONE * max(float(self.wide.max(initial=0)), 2.0**-100))

    def finish(self, sums: F64, x_scale: F32, out: I32) -> None:  # [m, n], [m] -> [m, n]
        """Round sums that hold all scales, and add the bias; changes ``sums``."""
        np.rint(sums, out=sums)
        if max(x_scale.tolist()) > self._harmless:
            if self._bias is not None:
                sums += self._bias
            saturate(sums, out)
            return
        # Integers are added in half the time, and limits take as long as all of the rest.
        np.copyto(out, sums, casting="unsafe")
        if self._bias is not None:
            np.add(out, self._bias, out=out)


def _is_narrow(dtype: str | np.dtype[np.generic], k: int) -> bool:
    """Whether float32 holds every sum of products of rows of this type."""
    return np.dtype(dtype).itemsize == 1 and k <= _EXACT_K


class ManyRows:
    """A product whose rows are shared out to threads; ``memory`` is of ``many_rows_scratch``."""

    def __init__(
        self,
        x: Integers,
        x_scale: F32,
        w: Array,
        w_scale: F32,
        bias: I32 | None,
        out: I32,
        memory: F32,
        team: Workers,
    ) -> None:  # [m, k], [m], [n, k], [n], [n] -> [m, n]
        self._x, self._x_scale, self._out, self._team = x, x_scale, out, team
        self._scales = _Scales(w_scale, bias)
        # In float32 there is no room for scales, but a product takes half the time.
        self._scaled = not _is_narrow(x.dtype, x.shape[1])
        # As the weight lies in memory: [n, k] or [k, n].
        self._by_rows = w.flags.c_contiguous
        self._w = w if self._by_rows else w.T
        dtype = np.float64 if self._scaled else np.float32
        (self._wide,) = cut(memory.view(np.uint8), [(self._w.shape, dtype)])
        self._parts = spans(len(self._w), 4 * team.threads)
        blocks = -(-len(x) // _BLOCK)
        self._blocks = spans(len(x), -(-blocks // team.threads) * team.threads)

    def __call__(self) -> None:
        self._team.run(self._widen, len(self._parts))
        self._team.run(self._multiply, len(self._blocks))

    def _widen(self, index: int) -> None:
        part = self._parts[index]
        if self._scaled:
            scale = self._scales.wide
            scale = scale[part, None] if self._by_rows else scale
            np.multiply(self._w[part], scale, out=self._wide[part])
        else:
            np.copyto(self._wide[part], self._w[part])

    def _multiply(self, index: int) -> None:
        block = self._blocks[index]
        x, out = self._x[block], self._out[block]
        weights = self._wide.T if self._by_rows else self._wide
        scale = np.multiply(self._x_scale[block, None], _ONE, dtype=np.float64)
        if self._scaled:
            rows, sums = scratch_arrays((x.shape, np.float64), (out.shape, np.float64))
            np.multiply(x, scale, out=rows)
            np.matmul(rows, weights, out=sums)
        else:
            rows, products, sums = scratch_arrays(
                (x.shape, np.float32), (out.shape, np.float32), (out.shape, np.float64)
            )
            np.copyto(rows, x)
            np.matmul(rows, weights, out=products)
            np.copyto(sums, products)
            sums *= scale
            sums *= self._scales.wide
        self._scales.finish(sums, self._x_scale[block], out)


def many_rows_scratch(dtype: str, n: int, k: int) -> Shape:
    """Room for the weight as floats; ``dtype`` is that of the rows."""
    return (n * k * (1 if _is_narrow(dtype, k) else 2),)


class _Columns:
    """Some columns of a product of few rows; see ``FewRows``."""

    def __init__(
        self,
        halves: F32,
        w: Array,
        w_scale: F32,
        bias: I32 | None,
        out: I32,
        arrays: Sequence[Array],
    ) -> None:  # [h, m, k], [n, k], [n], [n] -> [m, n]
        _, m, k = halves.shape
        lines = halves.reshape(-1, 1, k) if m <= FEW_ROWS else halves.reshape(-1, k)
        self._products, self._scaled, self._sums = arrays
        self._multiplied = [
            (lines[..., depth], w[:, depth].T, products.reshape(*lines.shape[:-1], -1))
            for depth, products in zip(_depths(k), self._products, strict=True)
        ]
        self._scales, self._out = _Scales(w_scale, bias), out

    def __call__(self, x_scale: F32, scales: F64) -> None:  # [m], [h, m, 1]
        for lines, columns, products in self._multiplied:
            # As a batch of products of one row NumPy hands them to BLAS one by one.
            np.matmul(lines, columns.astype(np.float32, copy=False), out=products)
        np.multiply(self._products, scales, out=self._scaled)
        np.add.reduce(self._scaled, axis=(0, 1), out=self._sums)
        self._sums *= self._scales.wide
        self._scales.finish(self._sums, x_scale, self._out)


class FewRows:
    """A product of few rows; ``memory`` is of ``few_rows_scratch``.

    Weights that are not float32 are widened for every run.
    """

    def __init__(
        self,
        x: Integers,
        x_scale: F32,
        w: Array,
        w_scale: F32,
        bias: I32 | None,
        out: I32,
        memory: F32,
    ) -> None:  # [m, k], [m], [n, k], [n], [n] -> [m, n]
        (m, k), n = x.shape, len(w)
        self._x, self._x_scale = x, x_scale
        count = x.itemsize
        units = [_ONE] if count == 1 else [_ONE * _RADIX, _ONE]
        self._units = np.array(units).reshape(count, 1, 1)
        self._scales = np.empty((count, m, 1))
        block = memory.view(np.uint8)
        self._halves, *_ = cut(block, _few_rows_arrays(count, m, min(n, _COLUMNS), k))
        self._columns = []
        for start in range(0, n, _COLUMNS):
            part = slice(start, min(start + _COLUMNS, n))
            arrays = cut(block, _few_rows_arrays(count, m, part.stop - start, k))[1:]
            offset = None if bias is None else bias[part]
            self._columns.append(
                _Columns(self._halves, w[part], w_scale[part], offset, out[:, part], arrays)
            )

    def __call__(self) -> None:
        halves = self._halves
        if len(halves) == 1:
            np.copyto(halves[0], self._x)
        else:
            np.multiply(self._x, np.float32(1 / _RADIX), out=halves[0])
            np.rint(halves[0], out=halves[0])
            np.multiply(halves[0], np.float32(-_RADIX), out=halves[1])
            halves[1] += self._x
        np.multiply(self._x_scale[:, None], self._units, out=self._scales)
        for columns in self._columns:
            columns(self._x_scale, self._scales)


def _depths(k: int) -> list[slice]:
    return [slice(start, min(start + _EXACT_K, k)) for start in range(0, k, _EXACT_K)]


def _few_rows_arrays(count: int, m: int, n: int, k: int) -> list[tuple[Shape, type]]:
    """The rows as floats, their products with n columns, those with their scales, and sums."""
    products = (len(_depths(k)), count, m, n)
    return [
        ((count, m, k), np.float32),
        (products, np.float32),
        (products, np.float64),
        ((m, n), np.float64),
    ]


def few_rows_scratch(dtype: str, m: int, n: int, k: int) -> Shape:
    """Room for what ``FewRows`` works in; ``dtype`` is that of the rows."""
    arrays = _few_rows_arrays(np.dtype(dtype).itemsize, m, min(n, _COLUMNS), k)
    return (size_of(arrays) // 4,)
