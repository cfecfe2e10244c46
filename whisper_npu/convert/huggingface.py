"""Reading Hugging Face directories, and model folders that this program wrote as INT8."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from whisper_npu.convert.configs import load_tokenizer
from whisper_npu.convert.pickle_reader import PickledTensor
from whisper_npu.convert.tensors import (
    Rows,
    RowScale,
    Source,
    StoredTensor,
    check_sharing,
    located_weights,
)
from whisper_npu.convert.tokenizer_files import read_tokenizer
from whisper_npu.convert.torch_file import TorchFile
from whisper_npu.errors import ModelError
from whisper_npu.model.dims import ModelDimensions, dimensions_from_config
from whisper_npu.model.folder import (
    CONFIG,
    GENERATION,
    INDEX,
    PICKLED,
    PICKLED_INDEX,
    has_safetensors,
)
from whisper_npu.model.integer_files import holds_integers
from whisper_npu.model.json_file import read_json
from whisper_npu.model.safetensors_file import (
    SafetensorsFile,
    find_stored,
    open_files,
    weight_files,
)
from whisper_npu.model.stored import INT8
from whisper_npu.model.weight_names import find_weights, named
from whisper_npu.model.weight_shapes import scale_name
from whisper_npu.text.tokenizer_json import tokenizer_files

# Weights, how most of their bytes are stored, and the files that they are in.
Located = tuple[dict[str, StoredTensor], str, list[Path]]


def read_huggingface(folder: Path, tokenizer: Path | None) -> Source:
    """A directory with config.json and weights. Raises ModelError.

    They are model.safetensors or its shards, or else pytorch_model.bin or its shards.
    """
    config_file = folder / CONFIG
    generation_file = folder / GENERATION
    config = read_json(config_file)
    dims = dimensions_from_config(config, str(config_file))
    generation = read_json(generation_file) if generation_file.exists() else {}
    safe = has_safetensors(folder)
    weights, dtype, weights_files = (_safetensors if safe else _pickled)(folder, dims)

    index = folder / (INDEX if safe else PICKLED_INDEX)
    optional = [file for file in (generation_file, index) if file.exists()]
    files = [config_file, *optional, *weights_files]
    text = None
    if tokenizer is not None or tokenizer_files(folder)[0].exists():
        text, file = read_tokenizer(tokenizer or folder, dims.n_vocab)
        load_tokenizer(text, dims.n_vocab, generation, file)
        files += tokenizer_files(folder) if tokenizer is None else [file]
    return Source(
        "huggingface", folder, tuple(files), dtype, dims, weights, config, generation, text
    )


def _safetensors(folder: Path, dims: ModelDimensions) -> Located:
    files = open_files(folder)
    if holds_integers(files, folder):
        raise ModelError(
            f"{folder}: was converted for int8 and has no floats; convert the model from its source"
        )
    names = find_stored(files, dims, folder)
    weights, dtype = located_weights(names, partial(_tensor, files), dims, folder)
    return weights, dtype, list(dict.fromkeys(file.path for file in files.values()))


def _pickled(folder: Path, dims: ModelDimensions) -> Located:
    paths = weight_files(folder, PICKLED)
    found: dict[str, tuple[TorchFile, PickledTensor]] = {}
    for file in map(TorchFile, paths):
        for name, tensor in file.content.items():
            if not isinstance(tensor, PickledTensor):
                raise ModelError(f"{file.path}: {named([str(name)])} is not a tensor")
            if name in found:
                raise ModelError(f"{file.path}: tensor {named([name])} is also in another shard")
            found[name] = (file, tensor)
    shapes = {name: tensor.shape for name, (_, tensor) in found.items()}
    names = find_weights(shapes, dims, str(folder))

    def locate(name: str) -> StoredTensor:
        file, tensor = found[name]
        return file.locate(tensor, name)

    weights, dtype = located_weights(names, locate, dims, folder)
    check_sharing(weights, sum(path.stat().st_size for path in paths), folder)
    return weights, dtype, paths


def _tensor(files: Mapping[str, SafetensorsFile], name: str) -> Rows:
    """A tensor of the files; an INT8 weight and its scales are one."""
    file = files[name]
    entry = file.entries[name]
    start = file.data_start + entry.start
    if entry.dtype != "I8":
        return Rows(file.path, start, entry.shape, file.float_type(name))
    if files[scale_name(name)] is not file:
        raise ModelError(f"{file.path}: int8 tensor {name} has {scale_name(name)} in another shard")
    scale = RowScale(file.data_start + file.entries[scale_name(name)].start, divides=False)
    return Rows(file.path, start, entry.shape, INT8, scale)
