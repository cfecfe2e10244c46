"""What is to be known of a model that is named on the command line, without its weights."""

from __future__ import annotations

import os
from pathlib import Path

from whisper_npu.errors import ModelError
from whisper_npu.hub.folders import BUILT_IN, built_in_directory, model_directory
from whisper_npu.model.dims import KNOWN_DIMENSIONS, ModelDimensions, dimensions_from_config
from whisper_npu.model.folder import CONFIG, PICKLED, PICKLED_INDEX, has_safetensors
from whisper_npu.model.json_file import read_json


def dimensions_of(model: str) -> ModelDimensions:
    """Dimensions of a model folder (only its config.json is read), of a model that ``convert``
    reads, of the built-in model, or of a published size. Raises ModelError."""
    path = _path(model)
    if path is None:
        known = KNOWN_DIMENSIONS.get(model)
        if known is None:
            raise ModelError(
                f"{model}: neither a model folder nor one of {', '.join(KNOWN_DIMENSIONS)}"
            )
        return known
    if _is_foreign(path):
        # Imported here, as it needs NumPy.
        from whisper_npu.convert.source import open_source

        return open_source(path).dims
    file = path / CONFIG
    return dimensions_from_config(read_json(file), str(file))


def has_int8_weights(model: str) -> bool:
    """Whether the weights of a model are stored as INT8; of a published size those that ``pull``
    makes, and of a folder without weights those that it could have, are. Raises ModelError for
    damaged weights."""
    path = _path(model)
    if path is None:
        return True
    # Imported here, as they need NumPy.
    if _is_foreign(path):
        from whisper_npu.convert.source import open_source

        return any(t.stored.name == "int8" for t in open_source(path).tensors.values())
    if not has_safetensors(path):
        return True
    from whisper_npu.model.safetensors_file import SafetensorsFile, weight_files

    files = map(SafetensorsFile, weight_files(path))
    return any(entry.dtype == "I8" for file in files for entry in file.entries.values())


def has_only_integers(model: str) -> bool:
    """Whether a model folder was converted for int8, and has no floats. Raises ModelError for
    damaged weights."""
    path = _path(model)
    if path is None or _is_foreign(path) or not has_safetensors(path):
        return False
    # Imported here, as it needs NumPy.
    from whisper_npu.model.integer_files import holds_integers
    from whisper_npu.model.safetensors_file import open_files

    return holds_integers(open_files(path), path)


def _path(model: str) -> Path | None:
    """Where the model is; None if it is only a name."""
    if model == BUILT_IN:
        return built_in_directory()
    # Not Path.exists, which raises OSError for a name that is too long.
    return model_directory(Path(model)) if os.path.exists(model) else None


def _is_foreign(path: Path) -> bool:
    """Whether it is no model folder, which may be without weights here."""
    if not path.is_dir():
        return True
    others = any((path / name).exists() for name in ("model.bin", PICKLED, PICKLED_INDEX))
    return not has_safetensors(path) and (others or not (path / CONFIG).exists())
