"""Safetensors files: which belong to a model folder, and reading them tensor by tensor."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from io import RawIOBase
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from whisper_npu.errors import ModelError
from whisper_npu.model.json_file import read_json
from whisper_npu.model.stored import BFLOAT16, FLOAT16, FLOAT32, U8, StoredType
from whisper_npu.model.weights import Shape

FLOAT_TYPES: Mapping[str, StoredType] = {"F32": FLOAT32, "F16": FLOAT16, "BF16": BFLOAT16}

# A large-v3 has 1,259 tensors, about 150 kB of header. Parsed JSON takes many times its length.
_LARGEST_HEADER = 16 << 20
# That read a file together; more do not make memory faster.
_THREADS = 4
_LARGE = 4 << 20
_ALIGNMENT = 64


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
    """One safetensors file.

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

    def read(self) -> dict[str, NDArray[Any]]:
        """Every tensor by name: int8 as it is, all others as float32."""
        read: dict[str, NDArray[Any]] = {}
        decode = {
            name: None if entry.dtype == "I8" else self.float_type(name).decode
            for name, entry in self.entries.items()
        }
        rooms = self._rooms()
        # The largest first, so that no thread is left with it at the end.
        names = iter(sorted(self.entries, key=lambda name: -self._size(name)))
        errors: list[BaseException] = []

        def work() -> None:
            try:
                with self.path.open("rb", buffering=0) as file:
                    for name in names:
                        raw, turn = rooms.get(name), decode[name]
                        if raw is None:
                            raw = np.empty(self._size(name), np.uint8)
                        self._fill(raw, file, name)
                        array = raw.view(np.int8) if turn is None else turn(raw)
                        read[name] = array.reshape(self.entries[name].shape)
            except BaseException as error:
                errors.append(error)

        # Copying a file that is in memory takes less time than making room for it, page by page,
        # and several threads make it faster than one.
        threads = [threading.Thread(target=work) for _ in range(min(_THREADS, os.cpu_count() or 1))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return {name: read[name] for name in self.entries}

    def _size(self, name: str) -> int:
        return self.entries[name].stop - self.entries[name].start

    def _rooms(self) -> dict[str, U8]:
        """Memory in one piece for small tensors that are kept as they are stored.

        NumPy asks for huge pages from 4 MB on, which take a fraction of the time to make.
        """
        kept = [
            name
            for name, entry in self.entries.items()
            if entry.dtype in ("F32", "I8") and self._size(name) < _LARGE
        ]
        starts = [0, *accumulate(-(-self._size(name) // _ALIGNMENT) * _ALIGNMENT for name in kept)]
        memory = np.empty(starts[-1], np.uint8)
        return {
            name: memory[start : start + self._size(name)]
            for name, start in zip(kept, starts, strict=False)
        }

    def _fill(self, raw: U8, file: RawIOBase, name: str) -> None:
        file.seek(self.data_start + self.entries[name].start)
        done = 0
        while done < raw.size:  # one call reads 2 GB at most
            count = file.readinto(raw[done:].data)
            if not count:
                raise ModelError(f"{self.path}: ends within tensor {name}")
            done += count

    def float_type(self, name: str) -> StoredType:
        """How a tensor of floating-point numbers is stored; others raise ModelError."""
        stored = FLOAT_TYPES.get(self.entries[name].dtype)
        if stored is None:
            raise ModelError(
                f"{self.path}: tensor {name} is {self.entries[name].dtype}; "
                "F32, F16, BF16 and I8 with scales are read"
            )
        return stored
