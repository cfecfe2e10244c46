"""Safetensors files: which belong to a model folder, and reading them tensor by tensor."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from whisper_npu.errors import ModelError
from whisper_npu.model.json_file import read_json
from whisper_npu.model.stored import BFLOAT16, FLOAT16, FLOAT32, StoredType
from whisper_npu.model.weights import Shape

FLOAT_TYPES: Mapping[str, StoredType] = {"F32": FLOAT32, "F16": FLOAT16, "BF16": BFLOAT16}

# A large-v3 has 1,259 tensors, about 150 kB of header. Parsed JSON takes many times its length.
_LARGEST_HEADER = 16 << 20


def weight_files(folder: Path) -> list[Path]:
    """model.safetensors of a folder, or the shards that its index names. Raises ModelError."""
    single = folder / "model.safetensors"
    if single.exists():
        return [single]
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        raise ModelError(f"{folder}: neither model.safetensors nor {index.name} is there")
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index}: weight_map must be an object that names the shards")
    for name in weight_map.values():
        # A shard is a file of this folder: a name with a path in it could point anywhere.
        if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]{0,200}", name, re.ASCII):
            raise ModelError(f"{index}: shard name {str(name)[:200]!r} is not a plain file name")
    shards = sorted(set(weight_map.values()))
    for name in shards:
        if not (folder / name).is_file():
            raise ModelError(f"{folder / name}: shard named in {index.name} is missing")
    return [folder / name for name in shards]


@dataclass(frozen=True)
class Entry:
    """A tensor in the header: ``start`` and ``stop`` are byte offsets within the data."""

    dtype: str
    shape: Shape
    start: int
    stop: int


class SafetensorsFile:
    """One safetensors file, read tensor by tensor.

    The library validates the header and the offsets; the bytes are read here, because its NumPy
    interface has no bfloat16. Raises ModelError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
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
            name: Entry(entry["dtype"], tuple(entry["shape"]), *map(int, entry["data_offsets"]))
            for name, entry in header.items()
            if name != "__metadata__"
        }

    def tensors(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Every tensor with its name, one at a time: int8 as it is, all others as float32."""
        with self.path.open("rb") as file:
            for name, entry in self.entries.items():
                decode = None if entry.dtype == "I8" else self.float_type(name).decode
                file.seek(self.data_start + entry.start)
                raw = np.empty(entry.stop - entry.start, np.uint8)
                file.readinto(raw.data)
                array = raw.view(np.int8) if decode is None else decode(raw)
                yield name, array.reshape(entry.shape)

    def float_type(self, name: str) -> StoredType:
        """How a tensor of floating-point numbers is stored; others raise ModelError."""
        stored = FLOAT_TYPES.get(self.entries[name].dtype)
        if stored is None:
            raise ModelError(
                f"{self.path}: tensor {name} is {self.entries[name].dtype}; "
                "F32, F16, BF16 and I8 with scales are read"
            )
        return stored
