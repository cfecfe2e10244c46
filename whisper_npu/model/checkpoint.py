"""Loading a model folder: Hugging Face's layout, weights as floats or quantised to int8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_npu.errors import ModelError
from whisper_npu.model.dims import ModelDimensions, dimensions_from_config
from whisper_npu.model.json_file import read_json
from whisper_npu.model.safetensors_file import Entry, SafetensorsFile, weight_files
from whisper_npu.model.weights import (
    TIED_OUTPUT,
    TOKEN_EMBEDDING,
    check_weights,
    is_quantizable,
    scale_name,
)
from whisper_npu.ops.arrays import F32, I8
from whisper_npu.ops.quant import Quantized


@dataclass(frozen=True)
class Checkpoint:
    """A model as loaded from disk.

    ``weights`` maps Hugging Face names to float32 arrays, or to integers with their scales where
    the file holds int8.
    """

    path: Path
    dims: ModelDimensions
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    weights: Mapping[str, F32 | Quantized]


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Load a Hugging Face directory (model.safetensors, or the sharded form with its index).

    Floating-point weights become float32; int8 weights keep their integers. Raises ModelError.
    """
    folder = Path(path)
    if not folder.is_dir():
        what = "is not a directory" if folder.exists() else "does not exist"
        raise ModelError(f"{folder}: {what}; --model takes a folder with config.json")
    config = read_json(folder / "config.json")
    dims = dimensions_from_config(config, str(folder / "config.json"))
    generation_file = folder / "generation_config.json"
    generation = read_json(generation_file) if generation_file.exists() else {}
    files = [SafetensorsFile(file) for file in weight_files(folder)]
    entries: dict[str, Entry] = {}
    for file in files:
        for name, entry in file.entries.items():
            if name in entries:
                raise ModelError(f"{file.path}: tensor {name} is also in another shard")
            entries[name] = entry
    scales = _scale_names(entries, str(folder))
    check_weights({n: e.shape for n, e in entries.items() if n not in scales}, dims, str(folder))
    loaded: dict[str, NDArray[Any]] = {}
    for file in files:
        loaded.update(file.read())
    weights: dict[str, F32 | Quantized] = {
        name: _quantized(array, loaded[scale_name(name)], name, str(folder))
        if array.dtype == np.int8
        else array
        for name, array in loaded.items()
        if name not in scales
    }
    tied = weights.pop(TIED_OUTPUT, None)
    if tied is not None and not _equal(tied, weights[TOKEN_EMBEDDING]):
        raise ModelError(
            f"{folder}: {TIED_OUTPUT} differs from {TOKEN_EMBEDDING}; Whisper shares the two"
        )
    return Checkpoint(folder, dims, config, generation, weights)


def _scale_names(entries: Mapping[str, Entry], source: str) -> set[str]:
    """The tensors that are scales of int8 weights. Raises ModelError if one is missing or unfit."""
    scales = set()
    for name, entry in entries.items():
        if entry.dtype != "I8":
            continue
        if not is_quantizable(name, entry.shape):
            raise ModelError(f"{source}: tensor {name} is int8, which only matrices may be")
        scale = entries.get(scale_name(name))
        if scale is None or scale.dtype != "F32" or scale.shape != entry.shape[:1]:
            raise ModelError(
                f"{source}: int8 tensor {name} needs {scale_name(name)}, float32 "
                f"[{entry.shape[0]}]; convert the model again with whisper-npu convert"
            )
        scales.add(scale_name(name))
    return scales


def _quantized(values: I8, scale: F32, name: str, source: str) -> Quantized:
    if not (np.isfinite(scale).all() and (scale >= 0).all()):
        raise ModelError(f"{source}: tensor {scale_name(name)} holds a scale that is no scale")
    if values.size and values.min() < -127:
        # An exact sum over K in float32 counts on products of at most 127 * 127.
        raise ModelError(f"{source}: tensor {name} holds -128; integers are in [-127, 127]")
    return Quantized(values, scale)


def _equal(a: F32 | Quantized, b: F32 | Quantized) -> bool:
    first, second = (w.dequantize() if isinstance(w, Quantized) else w for w in (a, b))
    return np.array_equal(first, second)
