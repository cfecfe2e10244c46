"""The smallest checkpoint that every reader accepts, for tests of readers and for fuzzing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.support.checkpoints import write_weights
from tests.support.formats.ctranslate2 import write_ctranslate2
from tests.support.formats.ggml import write_ggml
from tests.support.formats.seeded import SeededModel
from tests.support.formats.torch_pt import write_pt
from tests.support.vocabulary import BYTE_CHARACTERS, special_tokens
from whisper_npu.convert.configs import made_config
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.model.integer_files import VERSION_KEY
from whisper_npu.model.integer_weights import quantized_weights
from whisper_npu.model.weight_shapes import weight_specification
from whisper_npu.text.tokenizer_json import tokenizer_json

MERGED = ["th", "the", "Ġthe", "aa", "aaaa"]
N_TIMESTAMPS = 1501


def micro_model(
    state: int = 2, timestamps: int = N_TIMESTAMPS, whole_windows: bool = False
) -> SeededModel:
    """One layer a side, one language. ggml's number of timestamps is fixed; others take fewer.

    With ``whole_windows`` it can transcribe: its window is one of 30 s.
    """
    text = [*BYTE_CHARACTERS.values(), *MERGED]
    specials = list(special_tokens(["en"]))
    tokens = [*text, *specials[: len(specials) - N_TIMESTAMPS + timestamps]]
    n_mels, n_audio_ctx, n_text_ctx = (80, 1500, 12) if whole_windows else (3, 4, 5)
    dims = ModelDimensions(n_mels, n_audio_ctx, state, 1, 1, len(tokens), n_text_ctx, state, 1, 1)
    random = np.random.RandomState(0)
    weights = {
        name: random.standard_normal(shape).astype(np.float32)
        for name, shape in weight_specification(dims).items()
    }
    generation = {
        "alignment_heads": [[0, 0]],
        "suppress_tokens": [1, 2],
        "begin_suppress_tokens": [220],
    }
    return SeededModel(dims, weights, generation, tokens, len(text))


def write_huggingface(model: SeededModel, folder: Path, shards: int = 1) -> None:
    """config.json and weights; no tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.dumps(made_config(model.dims, None))
    (folder / "config.json").write_text(config, encoding="utf-8")
    write_weights(model.dims, model.weights.items(), folder, shards=shards)


def write_tokenizer(model: SeededModel, folder: Path) -> None:
    """tokenizer.json and generation_config.json."""
    specials = model.tokens[model.n_text :]
    text = tokenizer_json(model.text_tokens, specials, folder)
    # Without white space: mutations are to hit something that counts.
    (folder / "tokenizer.json").write_text(json.dumps(json.loads(text)), encoding="utf-8")
    no_timestamps = model.tokens.index("<|notimestamps|>")
    generation = {**model.generation, "no_timestamps_token_id": no_timestamps}
    (folder / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")


def write_int8(model: SeededModel, folder: Path) -> None:
    """The model as this program's INT8 directories have it, one scale a row."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.dumps(made_config(model.dims, None))
    (folder / "config.json").write_text(config, encoding="utf-8")
    tensors = dict(model.weights)
    for name, array in model.weights.items():
        if array.ndim > 1 and "embed_positions" not in name:
            rows = array.reshape(len(array), -1)
            scale = np.abs(rows).max(axis=1) / np.float32(127)
            tensors[f"{name}_scale"] = scale
            tensors[name] = np.rint(rows / scale[:, None]).astype(np.int8).reshape(array.shape)
    save_file(tensors, folder / "model.safetensors")


def write_integers(model: SeededModel, folder: Path, version: str = "2") -> None:
    """The model as folders of version 2 have it: integer weights, rounded to the nearest."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.dumps(made_config(model.dims, None))
    (folder / "config.json").write_text(config, encoding="utf-8")
    rows = model.weights
    weights = quantized_weights(
        lambda name, part: rows[name] if part is None else rows[name][part], model.dims
    )
    save_file(dict(weights), folder / "model.safetensors", {VERSION_KEY: version})


def write_micro(folder: Path) -> dict[str, Path]:
    """Every format and number format that is read, under ``folder``: name -> what to open."""
    few, full = micro_model(timestamps=1), micro_model()
    paths = {
        name: folder / name
        for name in (
            *("huggingface", "sharded", "int8", "integers", "float32.pt", "bfloat16.pt"),
            *("f32.bin", "q8_0.bin", "ctranslate2", "ctranslate2-int8"),
        )
    }
    write_huggingface(few, paths["huggingface"])
    write_huggingface(few, paths["sharded"], shards=2)
    write_tokenizer(few, paths["sharded"])
    write_int8(few, paths["int8"])
    write_integers(few, paths["integers"])
    write_pt(few, paths["float32.pt"])
    write_pt(few, paths["bfloat16.pt"], "bfloat16")
    write_ggml(full, paths["f32.bin"], "f32")
    write_ggml(micro_model(state=32), paths["q8_0.bin"], "q8_0")
    write_ctranslate2(few, paths["ctranslate2"])
    write_ctranslate2(few, paths["ctranslate2-int8"], "int8")
    return paths
