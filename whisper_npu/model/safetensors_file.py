"""Safetensors files: which belong to a model folder, and reading them tensor by tensor."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from whisper_npu.errors import ModelError
from whisper_npu.files.whole import open_regular
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.model.folder import WEIGHTS
from whisper_npu.model.json_file import read_json
from whisper_npu.model.stored import INTEGERS, SAFETENSORS, StoredType, fill
from whisper_npu.model.weight_names import TIED_OUTPUT, WeightNames, find_weights, named
from whisper_npu.model.weight_shapes import Shape, is_quantizable, scale_name
from whisper_npu.ops.arrays import U8

_SHARD = re.compile(r"[\w-][\w.-]{0,200}", re.ASCII)
# A large-v3 has 1,259 tensors, about 150 kB of header. Parsed JSON takes many times its length.
_LARGEST_HEADER = 16 << 20
_LARGE = 4 << 20
_BLOCK = 16 << 20
_ALIGNMENT = 64


def weight_files(folder: Path, weights: str = WEIGHTS) -> list[Path]:
    """The file ``weights`` of a folder, or the shards that its index names. Raises ModelError."""
    single = folder / weights
    if single.exists():
        return [single]
    index = folder / f"{weights}.index.json"
    if not index.exists():
        raise ModelError(f"{folder}: neither {weights} nor {index.name} is there")
    shards = shard_names(index)
    for name in shards:
        if not (folder / name).is_file():
            raise ModelError(f"{folder / name}: shard named in {index.name} is missing")
    return [folder / name for name in shards]


def shard_names(index: Path) -> list[str]:
    """The files of its folder that an index names. Raises ModelError."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index}: weight_map must be an object that names the shards")
    suffix = Path(index.name.removesuffix(".index.json")).suffix
    for name in weight_map.values():
        # A shard is a file of this folder: a name with a path in it could point anywhere.
        if not isinstance(name, str) or not _SHARD.fullmatch(name) or Path(name).suffix != suffix:
            raise ModelError(
                f"{index}: {str(name)[:80]!r} is not the plain name of a {suffix[1:]} file"
            )
    return sorted(set(weight_map.values()))


@dataclass(frozen=True)
class TensorEntry:
    """A tensor in the header: ``start`` and ``stop`` are byte offsets within the data."""

    dtype: str
    shape: Shape
    start: int
    stop: int


class _Rooms:
    """Memory for small tensors that are kept as they are stored, cut from large blocks.

    NumPy asks for huge pages from 4 MB on, which take a fraction of the time to make.
    """

    def __init__(self, largest: int) -> None:
        # No block is larger than all that the file has.
        self._size = min(_BLOCK, largest)
        self._lock = threading.Lock()
        self._block = np.empty(0, np.uint8)

    def take(self, size: int) -> U8:
        room = -(-size // _ALIGNMENT) * _ALIGNMENT
        with self._lock:
            if room > self._block.size:
                self._block = np.empty(max(room, self._size), np.uint8)
            taken, self._block = self._block[:size], self._block[room:]
        return taken


class SafetensorsFile:
    """One safetensors file.

    The library validates the header and the offsets; the bytes are read here, because its NumPy
    interface has no bfloat16. Raises ModelError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open_regular(path, ModelError) as file:
                #: What the file was when its header was read.
                self.found = os.fstat(file.fileno())
                self._rooms = _Rooms(self.found.st_size)
                length = int.from_bytes(file.read(8), "little")
                if length > _LARGEST_HEADER:
                    raise ValueError(f"a header of {length} bytes")
                with safe_open(str(path), framework="np"):
                    pass
                header = json.loads(file.read(length))
                self.data_start = 8 + length
        except (OSError, SafetensorError, ValueError) as error:
            raise ModelError(f"{path}: not a readable safetensors file: {error}") from error
        self.entries = {
            name: TensorEntry(
                entry["dtype"], tuple(entry["shape"]), *map(int, entry["data_offsets"])
            )
            for name, entry in header.items()
            if name != "__metadata__"
        }
        #: What the writer says of the file: strings by name.
        self.metadata: Mapping[str, str] = header.get("__metadata__") or {}

    def read(self, name: str, rows: slice | None = None) -> NDArray[Any]:
        """A tensor that is no scalar: int8 and int32 as they are, all others as float32.

        With ``rows`` only those, to be converted and dropped; without, to be kept. From any thread.
        Raises ModelError.
        """
        entry = self.entries[name]
        first, stop, _ = (rows or slice(None)).indices(entry.shape[0])
        row = (entry.stop - entry.start) // entry.shape[0]
        size = (stop - first) * row
        stays = rows is None and size < _LARGE and entry.dtype in ("F32", "I8", "I32")
        raw = self._rooms.take(size) if stays else np.empty(size, np.uint8)
        try:
            with open_regular(self.path, ModelError) as file:
                fill(file, self.data_start + entry.start + first * row, raw, f"tensor {name}")
        except OSError as error:
            raise ModelError(f"{self.path}: cannot be read: {error.strerror}") from error
        stored = SAFETENSORS.get(entry.dtype)
        array: NDArray[Any]
        if stored is not None and stored in INTEGERS:
            array = raw.view(INTEGERS[stored])
        else:
            array = self.float_type(name).decode(raw)
        return array.reshape(stop - first, *entry.shape[1:])

    def float_type(self, name: str) -> StoredType:
        """How a tensor of floating-point numbers is stored; others raise ModelError."""
        stored = SAFETENSORS.get(self.entries[name].dtype)
        if stored is None or stored in INTEGERS:
            raise ModelError(
                f"{self.path}: tensor {name} is {self.entries[name].dtype}; "
                "F64, F32, F16, BF16 and I8 with scales are read"
            )
        return stored


def open_files(folder: Path) -> dict[str, SafetensorsFile]:
    """The files of a model folder by the names of the tensors in them. Raises ModelError."""
    files: dict[str, SafetensorsFile] = {}
    for file in map(SafetensorsFile, weight_files(folder)):
        for name in file.entries:
            if name in files:
                raise ModelError(f"{file.path}: tensor {named([name])} is also in another shard")
            files[name] = file
    return files


def find_stored(
    files: Mapping[str, SafetensorsFile], dims: ModelDimensions, folder: Path
) -> WeightNames:
    """The weights among the tensors in the files of a folder.

    Their types are checked: floating-point numbers, or int8 with scales. Raises ModelError.
    """
    entries = {name: file.entries[name] for name, file in files.items()}
    integers = {name for name, entry in entries.items() if entry.dtype == "I8"}
    scales = {scale_name(name) for name in integers}
    shapes = {name: entry.shape for name, entry in entries.items() if name not in scales}
    names = find_weights(shapes, dims, str(folder))
    stored = dict(names.found)
    if names.output is not None:
        stored[TIED_OUTPUT] = names.output
    for name, tensor in stored.items():
        if tensor in integers:
            _check_scale(name, tensor, entries, folder)
        else:
            files[tensor].float_type(tensor)
    return names


def _check_scale(name: str, tensor: str, entries: Mapping[str, TensorEntry], folder: Path) -> None:
    shape = entries[tensor].shape
    if not is_quantizable(name, shape):
        raise ModelError(f"{folder}: tensor {tensor} is int8, which only matrices may be")
    scale = entries.get(scale_name(tensor))
    if scale is None or scale.dtype != "F32" or scale.shape != shape[:1]:
        found = f", not {scale.dtype} {list(scale.shape)}" if scale else ""
        raise ModelError(
            f"{folder}: int8 tensor {tensor} needs {scale_name(tensor)}, float32 "
            f"[{shape[0]}]{found}; convert the model again with whisper-npu convert"
        )
