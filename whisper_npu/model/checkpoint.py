"""Loading a model folder: Hugging Face's layout, weights as floats or quantised to int8."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whisper_npu.errors import ModelError
from whisper_npu.model.dims import ModelDimensions, dimensions_from_config
from whisper_npu.model.folder import CONFIG, GENERATION
from whisper_npu.model.json_file import read_json
from whisper_npu.model.safetensors_file import SafetensorsFile, scale_names, weight_files
from whisper_npu.model.weight_shapes import (
    TIED_OUTPUT,
    TOKEN_EMBEDDING,
    check_weights,
    scale_name,
)
from whisper_npu.ops.arrays import F32, I8
from whisper_npu.ops.quant import Quantized


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk.

    ``weights`` maps Hugging Face names to float32 arrays, or to integers with their scales where
    the file holds int8. Those of ``load_checkpoint`` are read when they are asked for.
    """

    path: Path
    dims: ModelDimensions
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    weights: Mapping[str, F32 | Quantized]

    @property
    def has_int8_weights(self) -> bool:
        """Whether matrices are stored as integers."""
        return isinstance(self.weights, StoredWeights) and bool(self.weights.integers)


class StoredWeights(Mapping[str, F32 | Quantized]):
    """The weights in the files of a model folder, the largest first.

    What is asked for is read at that time, so that memory need not hold the model twice while it is
    converted; from any thread. Raises ModelError then if the file was cut off or holds what no
    weight may. ``shapes`` are those of all tensors but scales; ``integers`` are the names of those
    that are stored as int8; ``files`` are the files, as they were when their headers were read.
    """

    def __init__(self, files: Mapping[str, SafetensorsFile], folder: Path) -> None:
        entries = {name: file.entries[name] for name, file in files.items()}
        scales = scale_names(entries, folder)
        self._files, self._folder = files, folder
        self.files = {file.path: file.found for file in files.values()}
        self.shapes = {name: e.shape for name, e in entries.items() if name not in scales}
        self.integers = frozenset(name for name, e in entries.items() if e.dtype == "I8")
        sizes = {name: entries[name].stop - entries[name].start for name in self.shapes}
        self._names = dict.fromkeys(sorted(sizes, key=lambda name: -sizes[name]))
        self._names.pop(TIED_OUTPUT, None)
        for name in entries.keys() - self.integers:
            files[name].float_type(name)

    def __getitem__(self, name: str) -> F32 | Quantized:
        return self.rows(name, None)

    def rows(self, name: str, part: slice | None) -> F32 | Quantized:
        """Some rows of a weight, to be converted and dropped; None: all of it, to be kept."""
        array = self._files[name].read(name, part)
        if array.dtype != np.int8:
            return array
        scale = self._files[scale_name(name)].read(scale_name(name), part)
        return _quantized(array, scale, name, self._folder)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Open a Hugging Face directory (model.safetensors, or the sharded form with its index).

    Names and shapes are checked here, what weights hold when they are read. Floating-point weights
    become float32; int8 weights keep their integers. Raises ModelError.
    """
    folder = Path(path)
    if not folder.is_dir():
        what = "is not a directory" if folder.exists() else "does not exist"
        raise ModelError(f"{folder}: {what}; --model takes a folder with config.json")
    config = read_json(folder / CONFIG)
    dims = dimensions_from_config(config, str(folder / CONFIG))
    generation_file = folder / GENERATION
    generation = read_json(generation_file) if generation_file.exists() else {}
    files: dict[str, SafetensorsFile] = {}
    for file in map(SafetensorsFile, weight_files(folder)):
        for name in file.entries:
            if name in files:
                raise ModelError(f"{file.path}: tensor {name} is also in another shard")
            files[name] = file
    weights = StoredWeights(files, folder)
    check_weights(weights.shapes, dims, str(folder))
    if TIED_OUTPUT in weights.shapes and not _equal(weights[TIED_OUTPUT], weights[TOKEN_EMBEDDING]):
        raise ModelError(
            f"{folder}: {TIED_OUTPUT} differs from {TOKEN_EMBEDDING}; Whisper shares the two"
        )
    return Checkpoint(folder, dims, config, generation, weights)


def _quantized(values: I8, scale: F32, name: str, source: Path) -> Quantized:
    if not (np.isfinite(scale).all() and (scale >= 0).all()):
        raise ModelError(f"{source}: tensor {scale_name(name)} holds a scale that is no scale")
    if values.size and values.min() < -127:
        # An exact sum over K in float32 counts on products of at most 127 * 127.
        raise ModelError(f"{source}: tensor {name} holds -128; integers are in [-127, 127]")
    return Quantized(values, scale)


def _equal(a: F32 | Quantized, b: F32 | Quantized) -> bool:
    first, second = (w.dequantize() if isinstance(w, Quantized) else w for w in (a, b))
    return np.array_equal(first, second)
