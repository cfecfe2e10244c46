"""The store of pulled models: a folder for each, with a record of what it is.

    models/openai--whisper-tiny/             the converted model and whisper-npu.json, its record
    locks/openai--whisper-tiny.lock          held by who changes it

Downloads are in the Hugging Face cache. (Versions before that kept them in ``downloads`` here.)
Reading takes no lock: a model is renamed into place when it is complete.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from whisper_npu.errors import ModelError, OutputError
from whisper_npu.files.temporary import sweep, to_the_end
from whisper_npu.files.whole import file_sha256, take_place
from whisper_npu.home import home_folder
from whisper_npu.hub.names import repository_of, short_name
from whisper_npu.model.folder import FORMAT_VERSION, WEIGHTS
from whisper_npu.model.json_file import read_json
from whisper_npu.terminal import note

RECORD = "whisper-npu.json"
# Of folders that begin with a dot: a model that is being made, removed, or, by an earlier version,
# replaced.
_STATES = ("incoming", "removed", "replaced")
_HIDDEN = re.compile(rf"\.(.+)\.({'|'.join(_STATES)})")
_TEXT_FIELDS = ("repository", "revision", "commit", "dtype", "pulled")


@dataclass(frozen=True)
class StoredFile:
    """A file of a model; ``size`` in bytes."""

    size: int
    sha256: str


@dataclass(frozen=True)
class StoredModel:
    """A model in the cache. ``revision`` is what was asked for, ``commit`` what that was then.

    Both are empty if it does not come from the hub, and ``packages`` names the Python packages
    that it comes from. ``pulled`` is the time in UTC as ISO 8601, of equal length always, so that
    text sorts by it. ``format`` is the version of the format that int8 weights have.
    """

    path: Path
    repository: str
    revision: str
    commit: str
    dtype: str
    pulled: str
    files: Mapping[str, StoredFile]
    packages: str = ""
    format: int = FORMAT_VERSION

    @property
    def name(self) -> str:
        """What ``--model`` calls it."""
        return short_name(self.repository)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    def is_whole(self) -> bool:
        """Whether all files are there and as long as they were."""
        try:
            return all((self.path / n).stat().st_size == f.size for n, f in self.files.items())
        except OSError:
            return False

    def is_current(self) -> bool:
        """Whether it is whole, and what ``pull`` would make today of the same files."""
        return self.is_whole() and (self.dtype != "int8" or self.format == FORMAT_VERSION)


class Store:
    """The models under ``home``; by default ``WHISPER_NPU_HOME``, or the user's cache folder."""

    def __init__(self, home: Path | None = None) -> None:
        self.home = home or home_folder()
        self._models = self.home / "models"

    def find(self, name: str) -> StoredModel | None:
        """The model of a short name or repository, if it was pulled.

        Raises OptionError for what is neither, ModelError if the record is damaged.
        """
        path = self._models / _key(repository_of(name))
        return _read_record(path) if path.is_dir() else None

    def all(self) -> list[StoredModel]:
        """All models by name. Raises ModelError if a record is damaged."""
        models = [_read_record(self._models / key) for key in self._keys()]
        return sorted(models, key=lambda model: model.name)

    def latest(self) -> StoredModel | None:
        """The model pulled last. Raises ModelError if a record is damaged."""
        return max(self.all(), key=lambda model: model.pulled, default=None)

    def discard_downloads(self, repository: str) -> None:
        """Remove what an earlier version downloaded of a repository, and say so on stderr.

        Whoever holds the lock may do so. Raises OutputError.
        """
        folder = self._downloads(repository)
        if folder.exists():
            with _writing(self.home):
                shutil.rmtree(folder)
            note(f"removed {folder}: downloads are now kept in the Hugging Face cache")

    @contextmanager
    def changing(self, repository: str, *, wait: bool = True) -> Iterator[None]:
        """Hold the lock of a repository. If ``wait`` is false, raises ModelError when it is held.

        A process that ends gives its lock back. Raises OutputError if the cache cannot be written.
        """
        from filelock import FileLock, Timeout

        file = self._lock(_key(repository))
        lock = FileLock(file)
        with ExitStack() as held:
            with _writing(self.home):
                file.parent.mkdir(parents=True, exist_ok=True)
                self._sweep()
                try:
                    held.enter_context(lock.acquire(timeout=0))
                except Timeout:
                    if not wait:
                        raise ModelError(
                            f"{repository}: is being changed by another process; try again later"
                        ) from None
                    note(f"waiting for another process that pulls {repository}")
                    held.enter_context(lock.acquire())
            yield

    @contextmanager
    def incoming(self, repository: str) -> Iterator[Path]:
        """The path for a model that is being made. Whoever holds the lock may make one.

        It is removed at the end, unless ``install`` has taken it. Raises OutputError.
        """
        folder = self._hidden(repository, "incoming")
        with _writing(self.home):
            for state in _STATES:
                _discard(self._hidden(repository, state))
            folder.mkdir(parents=True)
        try:
            yield folder / "model"
        finally:
            to_the_end(shutil.rmtree, folder, ignore_errors=True)

    def install(
        self,
        made: Path,
        repository: str,
        revision: str,
        commit: str,
        dtype: str,
        *,
        packages: str = "",
    ) -> StoredModel:
        """Record the model in ``made`` and rename it into place. Raises OutputError."""
        place = self._models / _key(repository)
        with _writing(self.home):
            files = {
                file.name: StoredFile(file.stat().st_size, file_sha256(file))
                for file in sorted(made.iterdir())
            }
            # Fixed digits: isoformat leaves microseconds out when they are 0.
            pulled = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            model = StoredModel(place, repository, revision, commit, dtype, pulled, files, packages)
            text = json.dumps(record(model), indent=2) + "\n"
            (made / RECORD).write_text(text, encoding="utf-8")
            take_place(made, place)
        return model

    def _sweep(self) -> None:
        """Remove what processes that were killed have left of models that nobody changes now."""
        from filelock import FileLock, Timeout

        sweep(self._models)
        for folder in self._models.glob(".*"):
            found = _HIDDEN.fullmatch(folder.name)
            if found is None:
                continue
            # What cannot be removed is in nobody's way.
            with suppress(OSError, Timeout), FileLock(self._lock(found[1]), timeout=0):
                shutil.rmtree(folder)

    def remove(self, name: str) -> None:
        """Remove a model, and what an earlier version downloaded of it.

        Raises OptionError for what is no name, ModelError if nothing of it is there or another
        process is changing it, OutputError if it cannot be removed.
        """
        repository = repository_of(name)
        self._sweep()
        place = self._models / _key(repository)
        if not place.exists() and not self._downloads(repository).exists():
            names = sorted(short_name(_repository(key)) for key in self._keys())
            there = ", ".join(names) or "none is"
            raise ModelError(f"{name}: was not pulled; of the models, these are there: {there}")
        with self.changing(repository, wait=False), _writing(self.home):
            if place.exists():
                # Renamed first, so that no half of it is ever seen.
                removed = self._hidden(repository, "removed")
                _discard(removed)
                place.rename(removed)
                to_the_end(_discard, removed)
            self.discard_downloads(repository)

    def _downloads(self, repository: str) -> Path:
        return self.home / "downloads" / _key(repository)

    def _lock(self, key: str) -> Path:
        return self.home / "locks" / f"{key}.lock"

    def _hidden(self, repository: str, state: str) -> Path:
        return self._models / f".{_key(repository)}.{state}"

    def _keys(self) -> list[str]:
        """The names of all models' folders; those that begin with a dot are being changed."""
        try:
            folders = [path.name for path in self._models.iterdir() if path.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ModelError(f"{self._models}: cannot be read ({error.strerror})") from error
        return [name for name in folders if not name.startswith(".")]


def readable_size(n_bytes: int) -> str:
    """As ``41.5 MB``."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"


def record(model: StoredModel) -> dict[str, Any]:
    """The content of a model's record."""
    fields: dict[str, Any] = {name: getattr(model, name) for name in _TEXT_FIELDS}
    files = {n: {"size": f.size, "sha256": f.sha256} for n, f in model.files.items()}
    return {**fields, "packages": model.packages, "format": model.format, "files": files}


def _key(repository: str) -> str:
    """The folder of a repository.

    No half of a repository's name has "--" in it, and the hub has no two that differ in case only.
    """
    return repository.replace("/", "--").lower()


def _repository(key: str) -> str:
    return key.replace("--", "/")


def _read_record(path: Path) -> StoredModel:
    file = path / RECORD
    advice = f"remove the model with: whisper-npu models remove {_repository(path.name)}"
    try:
        content = read_json(file)
    except ModelError as error:
        raise ModelError(f"{error}; {advice}") from error
    try:
        fields = {name: str(content[name]) for name in _TEXT_FIELDS}
        files = {
            name: StoredFile(int(entry["size"]), str(entry["sha256"]))
            for name, entry in content["files"].items()
        }
        if WEIGHTS not in files:
            raise ValueError
        # Records of earlier versions have neither.
        packages = str(content.get("packages", ""))
        version = int(content.get("format", 1))
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        raise ModelError(f"{file}: is damaged; {advice}") from None
    return StoredModel(path=path, files=files, packages=packages, format=version, **fields)


def _discard(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


@contextmanager
def _writing(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{error.filename or home}: cannot be written ({error.strerror or error}); "
            "WHISPER_NPU_HOME names another place for models"
        ) from error
