"""Loading a Hugging Face Whisper directory: config, generation config and weights as float32."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from whisper_npu.errors import ModelError
from whisper_npu.model.dims import ModelDimensions, dimensions_from_config
from whisper_npu.model.json_file import read_json
from whisper_npu.model.weights import TIED_OUTPUT, TOKEN_EMBEDDING, Shape, check_weights
from whisper_npu.ops.arrays import F32


@dataclass(frozen=True)
class Checkpoint:
    """A model as loaded from disk. ``weights`` maps Hugging Face names to float32 arrays."""

    path: Path
    dims: ModelDimensions
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    weights: Mapping[str, F32]


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Load a Hugging Face directory (model.safetensors, or the sharded form with its index).

    Weights may be float32, float16 or bfloat16; they become float32. Raises ModelError.
    """
    folder = Path(path)
    if not folder.is_dir():
        what = "is not a directory" if folder.exists() else "does not exist"
        raise ModelError(f"{folder}: {what}; --model takes a folder with config.json")
    config = read_json(folder / "config.json")
    dims = dimensions_from_config(config, str(folder / "config.json"))
    generation_file = folder / "generation_config.json"
    generation = read_json(generation_file) if generation_file.exists() else {}
    files = [_SafetensorsFile(file) for file in _weight_files(folder)]
    shapes: dict[str, Shape] = {}
    for file in files:
        for name, entry in file.entries.items():
            if name in shapes:
                raise ModelError(f"{file.path}: tensor {name} is also in another shard")
            shapes[name] = entry.shape
    check_weights(shapes, dims, str(folder))
    weights = {name: array for file in files for name, array in file.tensors()}
    tied = weights.pop(TIED_OUTPUT, None)
    if tied is not None and not np.array_equal(tied, weights[TOKEN_EMBEDDING]):
        raise ModelError(
            f"{folder}: {TIED_OUTPUT} differs from {TOKEN_EMBEDDING}; Whisper shares the two"
        )
    return Checkpoint(folder, dims, config, generation, weights)


def _weight_files(folder: Path) -> list[Path]:
    single = folder / "model.safetensors"
    if single.exists():
        return [single]
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        raise ModelError(f"{folder}: neither model.safetensors nor {index.name} is there")
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index}: weight_map must be an object that names the shards")
    shards = sorted({str(name) for name in weight_map.values()})
    for name in shards:
        # A shard is a file of this folder: a name with a path in it could point anywhere.
        if Path(name).name != name or name in ("", ".", ".."):
            raise ModelError(f"{index}: shard name {name!r} is not a plain file name")
        if not (folder / name).is_file():
            raise ModelError(f"{folder / name}: shard named in {index.name} is missing")
    return [folder / name for name in shards]


def _from_bfloat16(raw: bytes) -> F32:
    # bfloat16 is the upper half of a float32.
    return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)


_DECODERS: Mapping[str, Callable[[bytes], F32]] = {
    "F32": lambda raw: np.frombuffer(raw, "<f4").astype(np.float32, copy=False),
    "F16": lambda raw: np.frombuffer(raw, "<f2").astype(np.float32),
    "BF16": _from_bfloat16,
}


@dataclass(frozen=True)
class _Entry:
    dtype: str
    shape: Shape
    start: int
    stop: int


class _SafetensorsFile:
    """One safetensors file, read tensor by tensor.

    The library validates the header and the offsets; the bytes are read here, because its NumPy
    interface has no bfloat16.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(str(path), framework="np"):
                pass
            with path.open("rb") as file:
                header, self._data_start = self._read_header(file)
        except (OSError, SafetensorError, ValueError) as error:
            raise ModelError(f"{path}: not a readable safetensors file: {error}") from error
        self.entries = {
            name: _Entry(entry["dtype"], tuple(entry["shape"]), *map(int, entry["data_offsets"]))
            for name, entry in header.items()
            if name != "__metadata__"
        }

    @staticmethod
    def _read_header(file: BinaryIO) -> tuple[dict[str, Any], int]:
        length = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(length)), 8 + length

    def tensors(self) -> Iterator[tuple[str, F32]]:
        with self.path.open("rb") as file:
            for name, entry in self.entries.items():
                decode = _DECODERS.get(entry.dtype)
                if decode is None:
                    raise ModelError(
                        f"{self.path}: tensor {name} is {entry.dtype}; F32, F16 and BF16 are read"
                    )
                file.seek(self._data_start + entry.start)
                raw = file.read(entry.stop - entry.start)
                yield name, decode(raw).reshape(entry.shape)
