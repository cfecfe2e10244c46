"""Pulling a model: download what is needed of a repository, convert it, put it into the cache."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from whisper_npu.errors import ModelError, OutputError
from whisper_npu.hub.client import Hub, RemoteFile, Snapshot
from whisper_npu.hub.download import PART, fetch
from whisper_npu.hub.store import Store, StoredModel, readable_size
from whisper_npu.model.dims import dimensions_from_config
from whisper_npu.model.json_file import LARGEST_FILE, read_json

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_INDEX = f"{_WEIGHTS}.index.json"
_NEEDED = (_CONFIG, "tokenizer.json")
_OPTIONAL = ("generation_config.json",)
_OTHER_WEIGHTS = re.compile(r"[\w.-]+\.(bin|pt|pth|h5|msgpack|onnx|gguf|nemo)", re.ASCII)
_SHARD = re.compile(r"\w[\w.-]*\.safetensors", re.ASCII)

# Bytes of the converted model for one of the source, at most: sources are float16 or float32.
_GROWTH = {"int8": 0.6, "float16": 1.0, "float32": 2.0}


def pull(
    store: Store,
    repository: str,
    *,
    revision: str = "main",
    dtype: str = "int8",
    force: bool = False,
    keep: bool = False,
    offline: bool = False,
    progress: bool = False,
) -> tuple[StoredModel, bool]:
    """Have a repository's model in the cache; the model, and whether it was there already.

    It was if ``revision`` still means the commit that is there, converted to the same ``dtype``;
    otherwise, or if ``force``, it is pulled and replaces what is there. ``offline`` only looks into
    the cache. ``keep`` leaves the download in the cache. When it fails or is interrupted, what came
    so far stays, for the next time. Raises ModelError, OptionError and OutputError.
    """
    if offline:
        return _in_cache(store, repository, revision, dtype), True
    with store.changing(repository):
        there = store.find(repository)
        hub = Hub()
        snapshot = hub.snapshot(repository, revision)
        if (
            there is not None
            and not force
            and (there.commit, there.dtype) == (snapshot.commit, dtype)
            and there.is_whole()
        ):
            return there, True
        downloads = store.downloads(repository)
        source = downloads / snapshot.commit
        try:
            source.mkdir(parents=True, exist_ok=True)
            _download(hub, snapshot, source, _GROWTH[dtype], progress)
        except OSError as error:
            raise OutputError(
                f"{error.filename or source}: cannot be written ({error.strerror or error})"
            ) from error
        with store.incoming(repository) as made:
            # Imported here: NumPy is not needed before.
            from whisper_npu.convert import convert

            origin = f"{repository}@{snapshot.commit}"
            convert(source, made, dtype=dtype, origin=origin, progress=progress)
            model = store.install(made, repository, revision, snapshot.commit, dtype)
        if not keep:
            shutil.rmtree(downloads, ignore_errors=True)
        return model, False


def _in_cache(store: Store, repository: str, revision: str, dtype: str) -> StoredModel:
    model = store.find(repository)
    if model is None:
        raise ModelError(f"{repository}: is not in the cache, and nothing is downloaded offline")
    if model.dtype != dtype or revision not in (model.revision, model.commit):
        raise ModelError(
            f"{repository}: the cache has {model.dtype} of revision {model.revision} "
            f"({model.commit[:12]}), not {dtype} of {revision}, and nothing is downloaded offline"
        )
    return model


def _download(hub: Hub, snapshot: Snapshot, folder: Path, growth: float, progress: bool) -> None:
    names = snapshot.entries
    missing = [name for name in _NEEDED if name not in names]
    index = [_INDEX] if _WEIGHTS not in names and _INDEX in names else []
    if _WEIGHTS not in names and not index:
        others = sorted(filter(_OTHER_WEIGHTS.fullmatch, names))
        raise ModelError(
            f"{snapshot.repository}: has no {_WEIGHTS}"
            + (f", only {', '.join(others[:5])}" if others else "")
            + "; for other formats, download it and use whisper-npu convert"
        )
    if missing:
        raise ModelError(f"{snapshot.repository}: has no {missing[0]}; it cannot be used")
    described = [*_NEEDED, *(name for name in _OPTIONAL if name in names), *index]
    for file in map(snapshot.file, described):
        if file.size > LARGEST_FILE:
            raise ModelError(
                f"{snapshot.repository}: {file.name} has {readable_size(file.size)}; no Whisper "
                "model needs that"
            )
        fetch(hub, snapshot, file, folder, progress)
    # Before gigabytes come that no Whisper is in.
    dimensions_from_config(read_json(folder / _CONFIG), f"{snapshot.repository}: {_CONFIG}")
    weights = [snapshot.file(name) for name in (_shards(snapshot, folder) if index else [_WEIGHTS])]
    _check_space(folder, weights, growth)
    for file in weights:
        fetch(hub, snapshot, file, folder, progress)


def _shards(snapshot: Snapshot, folder: Path) -> list[str]:
    """The files that the index names, which the hub must list."""
    weight_map = read_json(folder / _INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{snapshot.repository}: {_INDEX} names no files")
    shards = sorted({str(name) for name in weight_map.values()})
    for name in shards:
        if not _SHARD.fullmatch(name):
            raise ModelError(
                f"{snapshot.repository}: {_INDEX}: {name[:80]!r} is not the plain name of a "
                "safetensors file"
            )
        if name not in snapshot.entries:
            raise ModelError(f"{snapshot.repository}: {_INDEX} names {name}, which is not there")
    return shards


def _check_space(folder: Path, weights: Sequence[RemoteFile], growth: float) -> None:
    """Raise OutputError unless there is room for what is to come and what it is converted to."""
    paths = [folder / name for file in weights for name in (file.name, file.name + PART)]
    there = sum(path.stat().st_size for path in paths if path.exists())
    total = sum(file.size for file in weights)
    needed, free = total - there + int(growth * total), shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{folder}: {readable_size(needed)} are needed to download and convert, and "
            f"{readable_size(free)} are free; WHISPER_NPU_HOME names another place for models"
        )
