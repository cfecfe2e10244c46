"""Reading openai-whisper's .pt files."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from whisper_npu.convert.configs import load_tokenizer, made_config, made_generation
from whisper_npu.convert.openai_names import names_from_openai
from whisper_npu.convert.pickle_reader import PickledTensor
from whisper_npu.convert.tensors import (
    Source,
    StoredTensor,
    check_name,
    check_sharing,
    located_weights,
)
from whisper_npu.convert.tokenizer_files import read_tokenizer
from whisper_npu.convert.torch_file import TorchFile
from whisper_npu.errors import ModelError
from whisper_npu.model.dims import ModelDimensions, dimensions_from_config
from whisper_npu.model.folder import TOKENIZER
from whisper_npu.model.weight_names import find_weights
from whisper_npu.model.weight_shapes import check_layers

# openai-whisper's names of its vocabularies, by the number of tokens of a model.
_VOCABULARIES = {51864: "gpt2", 51865: "multilingual", 51866: "multilingual"}


def read_openai(path: Path, tokenizer: Path | None) -> Source:
    """A .pt file of torch 1.6 or newer: float32, float16 or bfloat16. Raises ModelError.

    It has no vocabulary. Without ``tokenizer`` a tokenizer.json beside it is used, or that of
    openai-whisper where it is installed, or none.
    """
    file = TorchFile(path)
    dims, state = _parts(file.content, path)
    check_layers(dims, len(state), str(path))
    renamed = names_from_openai(dims)
    by_name = {renamed.get(name, name): (name, tensor) for name, tensor in state.items()}
    shapes = {name: tensor.shape for name, (_, tensor) in by_name.items()}
    names = find_weights(shapes, dims, str(path))

    def locate(name: str) -> StoredTensor:
        theirs, tensor = by_name[name]
        return file.locate(tensor, theirs)

    weights, dtype = located_weights(names, locate, dims, path)
    check_sharing(weights, path.stat().st_size, path)

    files = [path]
    text = loaded = None
    if tokenizer is None:
        beside = path.with_name(TOKENIZER)
        tokenizer = beside if beside.exists() else _installed_vocabulary(dims.n_vocab)
    if tokenizer is not None:
        text, vocabulary = read_tokenizer(tokenizer, dims.n_vocab)
        loaded = load_tokenizer(text, dims.n_vocab, {}, vocabulary)
        files.append(vocabulary)
    config, generation = made_config(dims, loaded), made_generation(dims, loaded)
    return Source("openai", path, tuple(files), dtype, dims, weights, config, generation, text)


def _parts(
    content: Mapping[Any, Any], path: Path
) -> tuple[ModelDimensions, dict[str, PickledTensor]]:
    sizes, state = content.get("dims"), content.get("model_state_dict")
    if not isinstance(sizes, dict) or not isinstance(state, dict):
        hint = ""
        if any(str(key).startswith("model.encoder.") for key in content if type(key) is str):
            hint = (
                "; it seems to be Hugging Face's pytorch_model.bin: name the folder that holds it "
                "and config.json"
            )
        raise ModelError(
            f"{path}: has no dims and model_state_dict, as openai-whisper's have{hint}"
        )
    names = [field.name for field in fields(ModelDimensions)]
    for name in names:
        if type(sizes.get(name)) is not int:
            raise ModelError(f"{path}: dims has no integer {name}")
    dims = ModelDimensions(**{name: sizes[name] for name in names})
    if dims.n_audio_state != dims.n_text_state:
        raise ModelError(
            f"{path}: dims has different n_audio_state {dims.n_audio_state} "
            f"and n_text_state {dims.n_text_state}"
        )
    for name, tensor in state.items():
        if not isinstance(tensor, PickledTensor):
            raise ModelError(f"{path}: {str(name)[:200]!r} in model_state_dict is not a tensor")
        check_name(str(name), path)
    return dimensions_from_config(made_config(dims, None), str(path)), state


def _installed_vocabulary(n_vocab: int) -> Path | None:
    """openai-whisper's file for a published number of tokens, if that package is installed."""
    name = _VOCABULARIES.get(n_vocab)
    package = importlib.util.find_spec("whisper") if name else None
    for folder in (package and package.submodule_search_locations) or ():
        file = Path(folder, "assets", f"{name}.tiktoken")
        if file.is_file():
            return file
    return None
