"""Which folder a model's name means: a folder, the built-in model, or one of the hub's."""

from __future__ import annotations

import stat
from pathlib import Path

from whisper_npu.errors import ModelError
from whisper_npu.files.places import shipped_file
from whisper_npu.files.whole import read_file
from whisper_npu.hub.names import is_repository, short_names
from whisper_npu.model.folder import CONFIG, INDEX, PICKLED, PICKLED_INDEX, WEIGHTS

BUILT_IN = "demo"

# Files of a Hugging Face folder that people name in its place.
_FILES = (CONFIG, WEIGHTS, INDEX, PICKLED, PICKLED_INDEX)
_SNAPSHOTS = "snapshots"
# A ref has the 40 digits of a commit.
_LONGEST_REF = 200


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
    files of a repository ``owner/name`` in the Hugging Face cache; a ``Path`` is never a name. A
    file of a Hugging Face folder stands for the folder, and a repository's folder in the Hugging
    Face cache for its snapshot. Other files are given back as they are: they may be whole models of
    other formats. Nothing is downloaded. Raises ModelError if the name is one that could be pulled
    and was not, and for a path that cannot be looked at.
    """
    if str(model) == BUILT_IN:
        return built_in_directory()
    path = Path(model)
    has_config = _has_config(path)
    if isinstance(model, Path) or has_config:
        return _meant(path)
    if model in short_names() or (is_repository(model) and not path.exists()):
        return _pulled_directory(model)
    return _meant(path)


def _has_config(path: Path) -> bool:
    """Whether a path is a folder with a config.json. Raises ModelError if that cannot be told."""
    # Versions of Python differ in which errors Path.is_file passes over.
    try:
        return stat.S_ISREG((path / CONFIG).stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error


def _meant(path: Path) -> Path:
    """The model that a path into it, or around it, stands for."""
    if path.is_file():
        part = path.name in _FILES or path.match(f"*-of-*{path.suffix}")
        return path.parent if part and (path.parent / CONFIG).is_file() else path
    snapshots = path if path.name == _SNAPSHOTS else path / _SNAPSHOTS
    if not snapshots.is_dir() or (path / CONFIG).exists():
        return path
    # A repository in the Hugging Face cache: refs/main names the commit that was asked for last.
    main = snapshots.parent / "refs" / "main"
    if main.is_file():
        commit = read_file(main, _LONGEST_REF, ModelError).decode("utf-8", "replace").strip()
        if commit and Path(commit).name == commit and (snapshots / commit).is_dir():
            return snapshots / commit
    found = sorted(entry for entry in snapshots.iterdir() if entry.is_dir())
    if len(found) != 1:
        what = "several snapshots" if found else "no snapshot"
        raise ModelError(f"{path}: holds {what} of a repository; name the folder of one")
    return found[0]


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
        raise ModelError(f"{name}: is no file or folder, and as a model {advice}")
    try:
        model_files(folder)
    except ModelError as error:
        raise ModelError(f"{name}: {advice} ({error})") from error
    return folder
