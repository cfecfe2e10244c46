"""Reading Hugging Face directories, and model folders that this program wrote as INT8."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from whisper_npu.convert.configs import load_tokenizer
from whisper_npu.convert.tensors import (
    Rows,
    RowScale,
    Source,
    StoredTensor,
    check_name,
    checked_weights,
)
from whisper_npu.convert.tokenizer_files import read_tokenizer
from whisper_npu.errors import ModelError
from whisper_npu.model.dims import dimensions_from_config
from whisper_npu.model.folder import CONFIG, GENERATION, INDEX, TOKENIZER
from whisper_npu.model.json_file import read_json
from whisper_npu.model.safetensors_file import (
    SafetensorsFile,
    TensorEntry,
    scale_names,
    weight_files,
)
from whisper_npu.model.stored import INT8
from whisper_npu.model.weight_shapes import scale_name


def read_huggingface(folder: Path, tokenizer: Path | None) -> Source:
    """A directory with config.json and model.safetensors or its shards. Raises ModelError."""
    config_file = folder / CONFIG
    generation_file = folder / GENERATION
    config = read_json(config_file)
    dims = dimensions_from_config(config, str(config_file))
    generation = read_json(generation_file) if generation_file.exists() else {}
    weights_files = weight_files(folder)
    weights, dtype = checked_weights(_tensors(weights_files), dims, folder)

    index = folder / INDEX
    optional = [file for file in (generation_file, index) if file.exists()]
    files = [config_file, *optional, *weights_files]
    text = None
    if tokenizer is not None or (folder / TOKENIZER).exists():
        text, file = read_tokenizer(tokenizer or folder, dims.n_vocab)
        load_tokenizer(text, dims.n_vocab, generation, file)
        files.append(file)
    return Source(
        "huggingface", folder, tuple(files), dtype, dims, weights, config, generation, text
    )


def _tensors(paths: list[Path]) -> dict[str, StoredTensor]:
    """All tensors of the files; an INT8 weight and its scales are one."""
    found: dict[str, tuple[SafetensorsFile, TensorEntry]] = {}
    for path in paths:
        file = SafetensorsFile(path)
        for name, entry in file.entries.items():
            if check_name(name, path) in found:
                raise ModelError(f"{path}: tensor {name} is also in another shard")
            found[name] = (file, entry)
    scales = scale_names({name: entry for name, (_, entry) in found.items()}, paths[0].parent)
    return {
        name: _quantized(file, name, found) if entry.dtype == "I8" else _floats(file, name)
        for name, (file, entry) in found.items()
        if name not in scales
    }


def _floats(file: SafetensorsFile, name: str) -> Rows:
    entry = file.entries[name]
    return Rows(file.path, file.data_start + entry.start, entry.shape, file.float_type(name))


def _quantized(
    file: SafetensorsFile, name: str, found: Mapping[str, tuple[SafetensorsFile, TensorEntry]]
) -> Rows:
    values = file.entries[name]
    scale_file, scale = found[scale_name(name)]
    if scale_file is not file:
        raise ModelError(f"{file.path}: int8 tensor {name} has {scale_name(name)} in another shard")
    rows = RowScale(file.data_start + scale.start, divides=False)
    return Rows(file.path, file.data_start + values.start, values.shape, INT8, rows)
