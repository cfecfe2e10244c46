"""Reading Hugging Face directories, and model folders that this program wrote as INT8."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from whisper_npu.convert.configs import load_tokenizer
from whisper_npu.convert.tensors import Rows, RowScale, Source, located_weights
from whisper_npu.convert.tokenizer_files import read_tokenizer
from whisper_npu.errors import ModelError
from whisper_npu.model.dims import dimensions_from_config
from whisper_npu.model.folder import CONFIG, GENERATION, INDEX
from whisper_npu.model.json_file import read_json
from whisper_npu.model.safetensors_file import SafetensorsFile, find_stored, open_files
from whisper_npu.model.stored import INT8
from whisper_npu.model.weight_shapes import scale_name
from whisper_npu.text.tokenizer_json import tokenizer_files


def read_huggingface(folder: Path, tokenizer: Path | None) -> Source:
    """A directory with config.json and model.safetensors or its shards. Raises ModelError."""
    config_file = folder / CONFIG
    generation_file = folder / GENERATION
    config = read_json(config_file)
    dims = dimensions_from_config(config, str(config_file))
    generation = read_json(generation_file) if generation_file.exists() else {}
    found = open_files(folder)
    names = find_stored(found, dims, folder)
    weights, dtype = located_weights(names, partial(_tensor, found), dims, folder)

    index = folder / INDEX
    optional = [file for file in (generation_file, index) if file.exists()]
    files = [config_file, *optional, *dict.fromkeys(file.path for file in found.values())]
    text = None
    if tokenizer is not None or tokenizer_files(folder)[0].exists():
        text, file = read_tokenizer(tokenizer or folder, dims.n_vocab)
        load_tokenizer(text, dims.n_vocab, generation, file)
        files += tokenizer_files(folder) if tokenizer is None else [file]
    return Source(
        "huggingface", folder, tuple(files), dtype, dims, weights, config, generation, text
    )


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
