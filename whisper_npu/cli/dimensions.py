"""What is to be known of a model that is named on the command line, without its weights."""

from __future__ import annotations

from pathlib import Path

from whisper_npu.errors import ModelError
from whisper_npu.hub.folders import BUILT_IN, built_in_directory
from whisper_npu.model.dims import KNOWN_DIMENSIONS, ModelDimensions, dimensions_from_config
from whisper_npu.model.folder import CONFIG, INDEX, WEIGHTS
from whisper_npu.model.json_file import read_json
from whisper_npu.model.safetensors_file import SafetensorsFile, weight_files


def dimensions_of(model: str) -> ModelDimensions:
    """Dimensions of a model folder (only its config.json is read), of the built-in model, or of a
    published size. Raises ModelError."""
    folder = built_in_directory() if model == BUILT_IN else Path(model)
    if folder.is_dir():
        file = folder / CONFIG
        return dimensions_from_config(read_json(file), str(file))
    known = KNOWN_DIMENSIONS.get(model)
    if known is None:
        raise ModelError(
            f"{model}: neither a model folder nor one of {', '.join(KNOWN_DIMENSIONS)}"
        )
    return known


def has_int8_weights(model: str) -> bool:
    """Whether the weights of a model folder are stored as INT8; of a published size those that
    ``pull`` makes, and of a folder without weights those that it could have, are. Raises ModelError
    for damaged weights."""
    folder = built_in_directory() if model == BUILT_IN else Path(model)
    if not any((folder / name).is_file() for name in (WEIGHTS, INDEX)):
        return True
    files = map(SafetensorsFile, weight_files(folder))
    return any(entry.dtype == "I8" for file in files for entry in file.entries.values())
