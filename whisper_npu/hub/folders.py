"""Which folder a model's name means: a folder, the built-in model, or one of the hub's."""

from __future__ import annotations

from pathlib import Path

from whisper_npu.errors import ModelError
from whisper_npu.files.places import shipped_file
from whisper_npu.hub.names import is_repository, short_names
from whisper_npu.model.folder import CONFIG

BUILT_IN = "demo"


def built_in_directory() -> Path:
    """The folder of the built-in model. Raises ModelError if it was not installed."""
    file = shipped_file(f"weights/{BUILT_IN}/config.json")
    if file is None:
        raise ModelError(
            f"the built-in model {BUILT_IN!r} is not installed; give a model folder with --model"
        )
    return file.parent


def model_directory(model: str | Path) -> Path:
    """The folder of a model: ``demo``, a folder, a pulled model, or a cached repository.

    A folder with a config.json comes before a pulled model of the same name, and that before the
    files of a repository ``owner/name`` in the Hugging Face cache; a ``Path`` is always a folder.
    Nothing is downloaded. Raises ModelError if the name is one that could be pulled and was not.
    """
    if str(model) == BUILT_IN:
        return built_in_directory()
    path = Path(model)
    if isinstance(model, Path) or (path / CONFIG).is_file():
        return path
    if model in short_names() or (is_repository(model) and not path.exists()):
        return _pulled_directory(model)
    return path


def _pulled_directory(name: str) -> Path:
    # Imported here, as most models are named by their folder.
    from whisper_npu.hub.store import Store

    if model := Store().find(name):
        return model.path
    advice = f"was not pulled yet; run: whisper-npu pull {name}"
    if name in short_names():
        raise ModelError(f"{name}: {advice}")
    from whisper_npu.hub.cache import cached_snapshot, model_files

    folder = cached_snapshot(name)
    if folder is None:
        raise ModelError(f"{name}: is no folder, and as a model {advice}")
    try:
        model_files(folder)
    except ModelError as error:
        raise ModelError(f"{name}: {advice} ({error})") from error
    return folder
