"""Files of torch.save: a zip archive with a pickle and the bytes of each storage."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from whisper_npu.convert.pickle_reader import LARGEST_PICKLE, PickledTensor, read_pickle
from whisper_npu.convert.tensors import Rows, StoredTensor
from whisper_npu.convert.torch_zip import Member, zip_members
from whisper_npu.errors import ModelError
from whisper_npu.files.whole import open_regular
from whisper_npu.model.stored import StoredType, fill
from whisper_npu.model.weight_shapes import Shape
from whisper_npu.ops.arrays import F32

_PICKLE = "data.pkl"
# The opcode that a pickle begins with.
_OLD = b"\x80"


class TorchFile:
    """A file of torch 1.6 or newer. ``content`` is what was saved, a dict.

    Raises ModelError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_regular(path, ModelError) as file:
            if file.read(len(_OLD)) == _OLD:
                raise ModelError(
                    f"{path}: is a torch file in the format before torch 1.6: load and save it "
                    "with a newer torch"
                )
            self._members = zip_members(file)
            found = [name for name in self._members if name.split("/")[1:] == [_PICKLE]]
            if len(found) != 1:
                raise ModelError(f"{path}: is a zip archive, but not of torch: it has no {_PICKLE}")
            self._folder = found[0].removesuffix(_PICKLE)
            order = self._members.get(f"{self._folder}byteorder")
            if order is not None and self._read(file, order) != b"little":
                raise ModelError(f"{path}: was not written on a little-endian machine")
            content = read_pickle(self._read(file, self._members[found[0]]), str(path))
        if not isinstance(content, dict):
            raise ModelError(f"{path}: holds a {type(content).__name__}, not a dict")
        self.content: Mapping[Any, Any] = content

    def _read(self, file: BufferedReader, member: Member) -> bytes:
        if member.size > LARGEST_PICKLE:
            raise ModelError(
                f"{self.path}: {_PICKLE} has {member.size} bytes; no Whisper needs that many"
            )
        file.seek(member.start)
        return file.read(member.size)

    def locate(self, tensor: PickledTensor, name: str) -> StoredTensor:
        """Where the numbers of a tensor of ``content`` are, which has some. Raises ModelError."""
        path, storage = self.path, tensor.storage
        if storage.stored is None:
            raise ModelError(
                f"{path}: tensor {name} is a {storage.type_name[:100]!r}; double, float, half and "
                "bfloat16 are read"
            )
        member = self._members.get(f"{self._folder}data/{storage.key}")
        if member is None or member.size < storage.stored.size(storage.count):
            raise ModelError(f"{path}: the data of tensor {name} is missing or too short")
        steps = zip(tensor.shape, tensor.strides, strict=True)
        last = tensor.offset + sum((size - 1) * stride for size, stride in steps)
        if last >= storage.count or math.prod(tensor.shape) > storage.count:
            raise ModelError(f"{path}: tensor {name} passes the end of its data")
        start = member.start + storage.stored.size(tensor.offset)
        if tensor.strides == _contiguous(tensor.shape):
            return Rows(path, start, tensor.shape, storage.stored)
        return StridedRows(path, start, tensor.shape, storage.stored, tensor.strides)


def _contiguous(shape: Shape) -> Shape:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


@dataclass(frozen=True)
class StridedRows:
    """A tensor whose neighbours along each axis lie ``strides`` numbers apart, as a transposed
    matrix has them. All of it is within the file."""

    path: Path
    start: int
    shape: Shape
    stored: StoredType
    strides: Shape

    @property
    def n_bytes(self) -> int:
        return self.stored.size(math.prod(self.shape))

    def blocks(self, block_bytes: int) -> Iterator[F32]:
        count = max(1, block_bytes // (4 * math.prod(self.shape[1:])))
        with open_regular(self.path, ModelError) as file:
            for first in range(0, self.shape[0], count):
                shape = (min(count, self.shape[0] - first), *self.shape[1:])
                block = np.empty(shape, np.float32)
                self._fill(file, block, first * self.strides[0], self.strides, block_bytes)
                yield block

    def _fill(
        self, file: BufferedReader, out: F32, offset: int, strides: Shape, block_bytes: int
    ) -> None:
        """Read what lies from number ``offset`` on into ``out``, a part of the tensor."""
        steps = list(zip(out.shape, strides, strict=True))
        span = 1 + sum((size - 1) * stride for size, stride in steps)
        # The bytes between the numbers are read too: in one piece where they are few.
        if 4 * span <= block_bytes or out.size == 1:
            raw = np.empty(self.stored.size(span), np.uint8)
            fill(file, self.start + self.stored.size(offset), raw)
            numbers = self.stored.decode(raw)
            steps_in_bytes = [stride * numbers.itemsize for stride in strides]
            out[...] = np.lib.stride_tricks.as_strided(numbers, out.shape, steps_in_bytes)
            return
        axis = max(range(out.ndim), key=lambda axis: (out.shape[axis] > 1, strides[axis]))
        for index in range(out.shape[axis]):
            part = out[(slice(None),) * axis + (slice(index, index + 1),)]
            self._fill(file, part, offset + index * strides[axis], strides, block_bytes)
