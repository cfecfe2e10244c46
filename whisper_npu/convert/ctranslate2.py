"""Reading CTranslate2's Whisper directories."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from whisper_npu.convert.configs import load_tokenizer, made_config, made_generation
from whisper_npu.convert.ctranslate2_file import ModelFile, Part, part_of, read_model_file
from whisper_npu.convert.tensors import (
    BLOCK_BYTES,
    Rows,
    Source,
    StoredTensor,
    check_sharing,
    checked_weights,
)
from whisper_npu.convert.tokenizer_files import read_text, read_tokenizer
from whisper_npu.errors import ModelError
from whisper_npu.model.dims import ModelDimensions, dimensions_from_config
from whisper_npu.model.folder import CONFIG, TOKENIZER
from whisper_npu.model.json_file import read_json
from whisper_npu.model.weight_names import TIED_OUTPUT
from whisper_npu.model.weight_shapes import check_layers, weight_specification
from whisper_npu.text.tokenizer_json import token_bytes, tokenizer_json

_END_OF_TEXT = "<|endoftext|>"
_LAYER = re.compile(r"(encoder|decoder)/layer_(\d+)/.*")
# What Whisper has, of the options that CTranslate2 has for a Transformer.
_OPTIONS = {"decoder/activation": 3, "decoder/pre_norm": 1, "decoder/scale_embeddings": 0}
_VOCABULARIES = ("vocabulary.json", "vocabulary.txt")


def read_ctranslate2(folder: Path, tokenizer: Path | None) -> Source:
    """A directory with model.bin: float32, float16, bfloat16 or int8. Raises ModelError."""
    path = folder / "model.bin"
    file = read_model_file(path)
    for name, value in _OPTIONS.items():
        if file.scalars.get(name, value) != value:
            raise ModelError(f"{path}: {name} is {file.scalars[name]}; Whisper's is {value}")
    dims = _dimensions(file, path)
    check_layers(dims, len(file.variables), str(path))
    tensors = _tensors(file, dims, path)
    check_sharing(tensors, file.size, path)
    weights, dtype = checked_weights(tensors, dims, path)

    files = [path]
    options: dict[str, Any] = {}
    if (folder / CONFIG).exists():
        options = read_json(folder / CONFIG)
        files.append(folder / CONFIG)
    text, vocabulary = _tokenizer(folder, tokenizer, dims.n_vocab)
    files.append(vocabulary)
    given = {
        ours: options[theirs]
        for ours, theirs in (
            ("alignment_heads", "alignment_heads"),
            ("suppress_tokens", "suppress_ids"),
            ("begin_suppress_tokens", "suppress_ids_begin"),
        )
        if isinstance(options.get(theirs), list)
    }
    loaded = load_tokenizer(text, dims.n_vocab, given, vocabulary)
    config, generation = made_config(dims, loaded), made_generation(dims, loaded) | given
    return Source(
        "ctranslate2", folder, tuple(files), dtype, dims, weights, config, generation, text
    )


def _dimensions(file: ModelFile, path: Path) -> ModelDimensions:
    """Dimensions from shapes, numbers of layers from names, numbers of heads as stored."""

    def size(name: str, axis: int) -> int:
        shape = file.variables[name].shape if name in file.variables else ()
        if axis >= len(shape):
            raise ModelError(f"{path}: has no variable {name} of {axis + 1} or more dimensions")
        return shape[axis]

    layers = {(m[1], m[2]) for name in file.variables if (m := _LAYER.fullmatch(name))}
    state = size("encoder/conv1/weight", 0)
    dims = ModelDimensions(
        n_mels=size("encoder/conv1/weight", 1),
        n_audio_ctx=size("encoder/position_encodings/encodings", 0),
        n_audio_state=state,
        n_audio_head=file.scalars.get("encoder/num_heads", 0),
        n_audio_layer=sum(side == "encoder" for side, _ in layers),
        n_vocab=size("decoder/embeddings/weight", 0),
        n_text_ctx=size("decoder/position_encodings/encodings", 0),
        n_text_state=state,
        n_text_head=file.scalars.get("decoder/num_heads", 0),
        n_text_layer=sum(side == "decoder" for side, _ in layers),
    )
    return dimensions_from_config(made_config(dims, None), str(path))


def _tensors(file: ModelFile, dims: ModelDimensions, path: Path) -> dict[str, StoredTensor]:
    """The parts of the variables by Hugging Face names; unknown variables by their own."""
    parts = {name: part_of(name) for name in weight_specification(dims)}
    parts[TIED_OUTPUT] = Part("decoder/projection/weight")
    tensors: dict[str, StoredTensor] = {
        name: _part(file, part, path)
        for name, part in parts.items()
        if part.variable in file.variables
    }
    known = {part.variable for part in parts.values()}
    for name in parts:
        if name.endswith("k_proj.weight"):
            bias = part_of(name.removesuffix("weight") + "bias")
            if bias.variable in file.variables:
                _check_zero(_part(file, bias, path), bias.variable, path)
    return tensors | {name: file.variables[name] for name in file.variables.keys() - known}


def _part(file: ModelFile, part: Part, path: Path) -> Rows:
    array = file.variables[part.variable]
    if array.shape[0] % part.count:
        raise ModelError(
            f"{path}: variable {part.variable} has {array.shape[0]} rows, "
            f"which are not {part.count} projections"
        )
    return part.of(array)


def _check_zero(bias: Rows, name: str, path: Path) -> None:
    if any(block.any() for block in bias.blocks(BLOCK_BYTES)):
        raise ModelError(f"{path}: variable {name} has a bias for keys; Whisper has none")


def _tokenizer(folder: Path, tokenizer: Path | None, n_vocab: int) -> tuple[str, Path]:
    """The text of tokenizer.json, and the file it was or was made of."""
    if tokenizer is not None or (folder / TOKENIZER).exists():
        return read_tokenizer(tokenizer or folder, n_vocab)
    for name in _VOCABULARIES:
        file = folder / name
        if file.exists():
            return _from_vocabulary(file), file
    raise ModelError(
        f"{folder}: has neither tokenizer.json nor {' nor '.join(_VOCABULARIES)}; "
        "name a tokenizer with --tokenizer"
    )


def _from_vocabulary(file: Path) -> str:
    """tokenizer.json from CTranslate2's list of all tokens by id, as Hugging Face spells them."""
    text = read_text(file)
    if file.suffix == ".txt":
        names = text.split("\n")
        if not names[-1]:
            names.pop()
    else:
        try:
            names = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{file}: cannot be read as JSON: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"{file}: is not a list of tokens")
    if _END_OF_TEXT not in names:
        raise ModelError(f"{file}: has no {_END_OF_TEXT}; it is not Whisper's vocabulary")
    n_text = names.index(_END_OF_TEXT)
    tokens = [token_bytes(name, file) for name in names[:n_text]]
    return tokenizer_json(tokens, names[n_text:], file)
