"""Writing whisper.cpp's ggml files."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from tests.support.formats.seeded import SeededModel
from whisper_npu.convert.openai_names import openai_name
from whisper_npu.ops.mel import mel_filters

# The number of the file's type (q8_0 with the version of ggml's quantisation).
FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 2007}
_F32, _F16, _Q8_0 = 0, 1, 8
# Kept in float32 whatever the file's type.
_POSITIONS = ("encoder.positional_embedding", "decoder.positional_embedding")
_CONVOLUTION_BIASES = ("encoder.conv1.bias", "encoder.conv2.bias")
_Q8_0_VALUES = 32


def write_ggml(model: SeededModel, path: Path, dtype: str = "f16") -> None:
    """``dtype`` is f32, f16 or q8_0; with q8_0 convolutions are float16, as whisper.cpp's are."""
    dims = model.dims
    filters = mel_filters(dims.n_mels).astype("<f4")
    with path.open("wb") as file:
        file.write(b"lmgg")
        file.write(
            struct.pack(
                "<11i",
                dims.n_vocab,
                dims.n_audio_ctx,
                dims.n_audio_state,
                dims.n_audio_head,
                dims.n_audio_layer,
                dims.n_text_ctx,
                dims.n_text_state,
                dims.n_text_head,
                dims.n_text_layer,
                dims.n_mels,
                FILE_TYPES[dtype],
            )
        )
        file.write(struct.pack("<2i", *filters.shape) + filters.tobytes())
        file.write(struct.pack("<i", model.n_text))
        for token in model.text_tokens:
            file.write(struct.pack("<I", len(token)) + token)
        for name, array in model.weights.items():
            file.write(_tensor(openai_name(name), array, dtype))


def _tensor(name: str, array: np.ndarray, dtype: str) -> bytes:
    kind = _F32
    if dtype != "f32" and array.ndim > 1 and name not in _POSITIONS:
        kind = _Q8_0 if dtype == "q8_0" and array.ndim == 2 else _F16
    if name in _CONVOLUTION_BIASES:
        array = array[:, None]
    raw = name.encode()
    header = struct.pack(f"<{3 + array.ndim}i", array.ndim, len(raw), kind, *array.shape[::-1])
    data = {_F32: _f32, _F16: _f16, _Q8_0: q8_0}[kind](array)
    return header + raw + data


def _f32(array: np.ndarray) -> bytes:
    return array.astype("<f4").tobytes()


def _f16(array: np.ndarray) -> bytes:
    return array.astype("<f2").tobytes()


def q8_0(array: np.ndarray) -> bytes:
    """Blocks of 32 values: their scale in float16, the largest becomes 127, rounded half up."""
    blocks = array.reshape(-1, _Q8_0_VALUES)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    scaled = blocks * inverse
    stored = np.empty(len(blocks), [("scale", "<f2"), ("values", "i1", _Q8_0_VALUES)])
    stored["scale"] = scale[:, 0]
    stored["values"] = np.trunc(scaled + np.copysign(np.float32(0.5), scaled))
    return stored.tobytes()
