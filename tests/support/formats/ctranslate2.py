"""Writing CTranslate2's Whisper directories, without CTranslate2."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

from tests.support.formats.seeded import SeededModel
from whisper_npu.convert.ctranslate2_file import part_of
from whisper_npu.model.weight_shapes import TOKEN_EMBEDDING

DTYPES = ("float32", "float16", "int8")
_TYPE_NUMBERS = {"float32": 0, "int8": 1, "int16": 2, "float16": 4}
_VERSION, _REVISION = 6, 3
_GELU = 3


def write_ctranslate2(model: SeededModel, folder: Path, dtype: str = "float32") -> None:
    """model.bin, config.json and vocabulary.json; ``dtype`` is one of ``DTYPES``."""
    folder.mkdir(parents=True, exist_ok=True)
    variables = _variables(model)
    for name in list(variables):
        if dtype == "int8" and name.endswith("/weight"):
            variables[name], variables[f"{name}_scale"] = quantized(variables[name])
        elif dtype == "float16":
            variables[name] = variables[name].astype(np.float16)
    dims = model.dims
    variables |= {
        "encoder/num_heads": np.int16(dims.n_audio_head),
        "decoder/num_heads": np.int16(dims.n_text_head),
        "decoder/activation": np.int8(_GELU),
        "decoder/pre_norm": np.int8(1),
        "decoder/scale_embeddings": np.int8(0),
    }
    with (folder / "model.bin").open("wb") as file:
        file.write(struct.pack("<I", _VERSION) + _string("WhisperSpec"))
        file.write(struct.pack("<2I", _REVISION, len(variables)))
        for name, value in sorted(variables.items()):
            file.write(_string(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape))
            file.write(struct.pack("<BI", _TYPE_NUMBERS[value.dtype.name], value.nbytes))
            file.write(value.tobytes())
        file.write(struct.pack("<I", 1) + _string("decoder/projection/weight"))
        file.write(_string(part_of(TOKEN_EMBEDDING).variable))
    generation = model.generation
    config = {
        "alignment_heads": generation["alignment_heads"],
        "lang_ids": sorted(generation.get("lang_to_id", {}).values()),
        "suppress_ids": generation["suppress_tokens"],
        "suppress_ids_begin": generation["begin_suppress_tokens"],
    }
    for name, content in (("config.json", config), ("vocabulary.json", model.tokens)):
        (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")


def _variables(model: SeededModel) -> dict[str, np.ndarray]:
    """All weights, with query, key and value projections joined; keys get a bias of zeros."""
    weights = dict(model.weights)
    for name, array in model.weights.items():
        if name.endswith("k_proj.weight"):
            weights[name.removesuffix("weight") + "bias"] = np.zeros(len(array), np.float32)
    parts: dict[str, list[tuple[int, np.ndarray]]] = {}
    for name, array in weights.items():
        part = part_of(name)
        parts.setdefault(part.variable, []).append((part.index, array))
    return {
        variable: np.concatenate([array for _, array in sorted(found, key=lambda part: part[0])])
        for variable, found in parts.items()
    }


def quantized(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 and the float32 scales of its rows: the integers are the weight times its scale."""
    rows = weight.reshape(len(weight), -1)
    largest = np.abs(rows).max(axis=1)
    largest[largest == 0] = 127
    scale = np.float32(127) / largest
    return np.rint(rows * scale[:, None]).astype(np.int8).reshape(weight.shape), scale


def _string(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"
