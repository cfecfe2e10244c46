"""Rows and elements of the integer network: few of them lean, many of them by threads.

All give the bits of their specifications in ``ops.rows`` and ``ops.product_int8``. The arithmetic
of a row's scale takes NumPy 1 us a step, whatever there is to do: for few rows Python's integers
are faster.
"""

from __future__ import annotations

import math

import numpy as np

from whisper_npu.ops import product_int8, rows
from whisper_npu.ops.arrays import F32, I32, I64
from whisper_npu.ops.attention import split_heads
from whisper_npu.ops.attention_int import CROSS_BITS, shift_of
from whisper_npu.ops.fixed import F64, FRACTION
from whisper_npu.ops.rows import Integers
from whisper_npu.runtime.workers import scratch_arrays

# Elements per block: three arrays of them stay in a second-level cache, and each loop is long
# beside what it costs two threads to pass the interpreter to each other.
BLOCK = 65536


def _mantissa(ratio: float) -> tuple[int, int]:
    """``rows.mantissas`` of one number."""
    fraction, exponent = math.frexp(ratio)
    m = math.ceil(fraction * 2.0**rows.SCALE_BITS)
    e = exponent - rows.SCALE_BITS
    return (m >> 1, e + 1) if m == 1 << rows.SCALE_BITS else (m, e)


class FewRows:
    """``rows.quantize_int32`` of few rows."""

    def __init__(self, x: I32, values: Integers, scale: F32, fraction: int) -> None:
        # [m, k] -> [m, k], [m]
        m, self._k = x.shape
        self._x, self._values, self._scale, self._fraction = x, values, scale, fraction
        self._limit = rows.limit(8 * values.itemsize, self._k)
        self._magnitudes = np.empty_like(x)
        self._wide = np.empty(x.shape)
        self._reciprocals = np.empty((m, 1))

    def __call__(self) -> None:
        for i, largest in enumerate(self._largest()):
            m, e = _mantissa(largest / self._limit)
            self._reciprocals[i] = math.ldexp(
                (1 << rows.RECIPROCAL_BITS) // max(m, 1), -rows.RECIPROCAL_BITS - e
            )
            self._scale[i] = math.ldexp(m, e - self._fraction)
        self._round()

    def _largest(self) -> list[int]:
        np.abs(self._x, out=self._magnitudes)
        largest: list[int] = np.maximum.reduce(self._magnitudes, axis=1).tolist()
        return largest

    def _round(self) -> None:
        np.multiply(self._x, self._reciprocals, out=self._wide)
        np.rint(self._wide, out=self._wide)
        np.copyto(self._values, self._wide, casting="unsafe")


class FewNorms(FewRows):
    """``rows.rms_norm`` of few rows."""

    def __init__(self, x: I32, values: Integers, scale: F32) -> None:  # [m, k] -> [m, k], [m]
        super().__init__(x, values, scale, 0)
        self._epsilon = int(np.rint(rows.EPSILON * self._k))
        # Products of each row with itself.
        self._pair = self._wide[:, None], self._wide[:, :, None]
        self._squares = np.empty((len(x), 1, 1))

    def __call__(self) -> None:
        largest = self._largest()
        shifts = [max(value.bit_length() - rows.SQUARED_BITS, 0) for value in largest]
        if any(shifts):
            np.right_shift(self._x, np.array(shifts, np.int32)[:, None], out=self._magnitudes)
            np.copyto(self._wide, self._magnitudes)
        else:
            np.copyto(self._wide, self._x)
        np.matmul(*self._pair, out=self._squares)
        squares = self._squares.ravel().tolist()
        for i, (value, s, total) in enumerate(zip(largest, shifts, squares, strict=True)):
            mean = (int(total) + (self._epsilon >> 2 * s) << 2 * rows.ROOT_BITS) // self._k
            root = math.isqrt(mean)
            m, e = _mantissa(float(value << rows.ROOT_BITS) / float(root * self._limit))
            divisor = root * max(m, 1)
            k = divisor.bit_length() + 20
            self._reciprocals[i] = math.ldexp((1 << k) // divisor, rows.ROOT_BITS - k - e)
            self._scale[i] = math.ldexp(m, e - s)
        self._round()


class ManyRows:
    """``rows.quantize_int32`` of many rows: a step on some of them."""

    def __init__(self, x: I32, values: Integers, scale: F32, fraction: int) -> None:
        # [m, k] -> [m, k], [m]
        self._x, self._values, self._scale, self._fraction = x, values, scale, fraction
        self._limit = rows.limit(8 * values.itemsize, x.shape[1])

    def __call__(self, part: slice) -> None:
        x = self._x[part]
        magnitudes, wide = scratch_arrays((x.shape, np.int32), (x.shape, np.float64))
        largest = np.abs(x, out=magnitudes).max(axis=1).astype(np.int64)
        reciprocal, self._scale[part] = self._scales(x, largest, magnitudes, wide)
        np.multiply(x, reciprocal[:, None], out=wide)
        np.rint(wide, out=wide)
        np.copyto(self._values[part], wide, casting="unsafe")

    def _scales(self, x: I32, largest: I64, narrow: I32, wide: F64) -> tuple[F64, F64]:
        return rows.quantizer(largest, self._limit, self._fraction)


class ManyNorms(ManyRows):
    """``rows.rms_norm`` of many rows: a step on some of them."""

    def __init__(self, x: I32, values: Integers, scale: F32) -> None:  # [m, d] -> [m, d], [m]
        super().__init__(x, values, scale, 0)

    def _scales(self, x: I32, largest: I64, narrow: I32, wide: F64) -> tuple[F64, F64]:
        s = rows.square_shift(largest)
        np.right_shift(x, s[:, None].astype(np.int32), out=narrow)
        np.copyto(wide, narrow)
        squares = np.einsum("ij,ij->i", wide, wide)
        return rows.normalizer(largest, s, squares, x.shape[1], self._limit)


def gelu_part(x: I32, out: I32, part: slice) -> None:  # [n], [n], which may be x
    """Some elements of ``product_int8.gelu_int32``."""
    table = product_int8.gelu_table()
    for start in range(part.start, part.stop, BLOCK):
        block = slice(start, min(start + BLOCK, part.stop))
        size = (block.stop - start,)
        magnitude, index = scratch_arrays((size, np.int32), (size, np.int64))
        np.abs(x[block], out=magnitude)
        np.minimum(magnitude, product_int8.GELU_END, out=magnitude)
        np.copyto(index, magnitude)
        # With "clip" nothing is copied on the way to ``out``.
        table.take(index, out=magnitude, mode="clip")
        np.maximum(x[block], 0, out=out[block])
        out[block] -= magnitude


def add_part(x: I32, y: I32, out: I32, cut: I32, part: slice) -> None:  # [n], [n] -> [n], []
    """Some elements of ``product_int8.add_int32``; ``cut`` is left as it is where none was cut."""
    of_block = np.empty((), np.int32)
    for start in range(part.start, part.stop, BLOCK):
        block = slice(start, min(start + BLOCK, part.stop))
        product_int8.add_int32(x[block], y[block], out[block], of_block)
        if of_block:
            cut[...] = 1


def columns_part(x: I32, values: Integers, scale: F32, part: slice) -> None:
    # [b, t, h * dh] -> [b, h, t, dh], [b, h, dh]
    """Some heads of ``attention_int.quantize_columns``."""
    target, d_head = values[:, part], values.shape[3]
    columns = x[:, :, part.start * d_head : part.stop * d_head]
    magnitudes, wide = scratch_arrays((columns.shape, np.int32), (columns.shape, np.float64))
    shift = shift_of(np.abs(columns, out=magnitudes).max(axis=1), CROSS_BITS)
    np.multiply(columns, np.ldexp(1.0, -shift)[:, None], out=wide)
    wide += 0.5
    np.floor(wide, out=wide)
    np.clip(wide, -rows.LARGEST_INT8, rows.LARGEST_INT8, out=wide)
    target[...] = split_heads(wide, target.shape[1])
    scale[:, part] = np.ldexp(1.0, shift - FRACTION).reshape(scale[:, part].shape)
