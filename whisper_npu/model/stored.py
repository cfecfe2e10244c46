"""Number formats of weight files, and reading a stored tensor in blocks of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader, FileIO

import numpy as np

from whisper_npu.errors import ModelError
from whisper_npu.model.weight_shapes import Shape
from whisper_npu.ops.arrays import F32, U8, widen_bfloat16

# Values that are looked at in one go.
_CHECKED = 1 << 16


@dataclass(frozen=True)
class StoredType:
    """How the values of a tensor are stored: ``group`` values take ``group_bytes`` bytes.

    ``decode`` makes float32 of whole groups, without loss but for what float64 and int32 have more.
    """

    name: str
    group: int
    group_bytes: int
    decode: Callable[[U8], F32]

    def size(self, values: int) -> int:
        """Bytes that ``values`` values take; a multiple of ``group``."""
        return values // self.group * self.group_bytes


def _from_float32(raw: U8) -> F32:
    return raw.view("<f4").astype(np.float32, copy=False)


def _from_float64(raw: U8) -> F32:
    # Values beyond float32 become infinity, which readers refuse.
    with np.errstate(over="ignore"):
        return raw.view("<f8").astype(np.float32)


def _from_float16(raw: U8) -> F32:
    return raw.view("<f2").astype(np.float32)


def _from_bfloat16(raw: U8) -> F32:
    return widen_bfloat16(raw.view("<u2"))


def _from_int8(raw: U8) -> F32:
    return raw.view(np.int8).astype(np.float32)


def _from_int32(raw: U8) -> F32:
    return raw.view("<i4").astype(np.float32)


FLOAT64 = StoredType("float64", 1, 8, _from_float64)
FLOAT32 = StoredType("float32", 1, 4, _from_float32)
FLOAT16 = StoredType("float16", 1, 2, _from_float16)
BFLOAT16 = StoredType("bfloat16", 1, 2, _from_bfloat16)
INT8 = StoredType("int8", 1, 1, _from_int8)
INT32 = StoredType("int32", 1, 4, _from_int32)

# By their names in safetensors files.
SAFETENSORS: Mapping[str, StoredType] = {
    "F64": FLOAT64,
    "F32": FLOAT32,
    "F16": FLOAT16,
    "BF16": BFLOAT16,
    "I8": INT8,
    "I32": INT32,
}
# Those whose values are read as they are.
INTEGERS: Mapping[StoredType, str] = {INT8: "i1", INT32: "<i4"}


def is_finite(array: F32) -> bool:
    """Whether there is neither NaN nor infinity in an array that is contiguous."""
    flat = array.reshape(-1)
    # In parts that stay in a cache, with what NumPy makes of them.
    parts = range(0, flat.size, _CHECKED)
    return all(np.isfinite(flat[first : first + _CHECKED]).all() for first in parts)


def fill(file: BufferedReader | FileIO, start: int, raw: U8, what: str = "a tensor") -> None:
    """Read all of ``raw``, a part of ``what``, from byte ``start`` on. Raises ModelError."""
    file.seek(start)
    done = 0
    while done < raw.size:  # one call reads 2 GB at most
        count = file.readinto(raw[done:].data)
        if not count:
            raise ModelError(f"{file.name}: ends within {what}")
        done += count


def read_rows(
    file: BufferedReader, start: int, shape: Shape, stored: StoredType, block_bytes: int
) -> Iterator[F32]:
    """A tensor that lies at byte ``start``, as blocks of whole rows (of the first axis).

    A block is float32, writable, and takes at most ``block_bytes`` bytes unless a single row takes
    more. The caller has compared the tensor's size with the file's. Raises ModelError if the file
    has become shorter since.
    """
    row = math.prod(shape[1:])
    count = max(1, block_bytes // (4 * row))
    for first in range(0, shape[0], count):
        rows = min(count, shape[0] - first)
        # Into an array of our own: a mapped file would count as resident memory.
        raw = np.empty(stored.size(rows * row), np.uint8)
        fill(file, start + stored.size(first * row), raw)
        yield stored.decode(raw).reshape(rows, *shape[1:])
