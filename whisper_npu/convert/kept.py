"""Models of other formats as models to be loaded: converted once, and kept in the cache.

    converted/tiny-0123456789abcdef/       the model, and source.json: the files it was made of
    locks/converted-tiny-0123456789abcdef.lock

A conversion is used as long as the files it was made of are what they were.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from whisper_npu.convert.conversion import AS_STORED, convert_source, kept_dtype
from whisper_npu.convert.source import FORMATS, Source, open_source, recognized
from whisper_npu.errors import ModelError
from whisper_npu.files.whole import replacing_folder, writing
from whisper_npu.home import home_folder
from whisper_npu.model.folder import TOKENIZER, WEIGHTS
from whisper_npu.model.json_file import read_json
from whisper_npu.model.weight_shapes import TOKEN_EMBEDDING
from whisper_npu.runtime.packed import identity
from whisper_npu.terminal import note
from whisper_npu.version import __version__

FOLDER = "converted"
RECORD = "source.json"
_ADVICE = "WHISPER_NPU_HOME names another place for it; whisper-npu convert makes a folder of it"
_NO_PART_OF_A_NAME = re.compile(r"[^A-Za-z0-9_.-]+")


def converted_folder(path: Path) -> Path:
    """The folder that a model of another format was converted to; it is converted if need be.

    A warning says so then. Tensors stay as they are stored (``AS_STORED``). Processes that want the
    same model wait for the first of them. Raises ModelError, and OutputError if the cache cannot be
    written.
    """
    try:
        kind, path = recognized(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    place = _place(path)
    if not _is_current(place):
        with writing(place, _ADVICE), _lock(place):
            if not _is_current(place):
                _convert(kind, path, place)
    return place


def _convert(kind: str, path: Path, place: Path) -> None:
    _sweep(place.parent)
    source = open_source(path)
    if source.tokenizer is None:
        raise ModelError(
            f"{path}: holds no vocabulary; put its {TOKENIZER} beside it, or name one: "
            f"whisper-npu convert {path} DIR --tokenizer FILE"
        )
    record = _record(source)
    dtype = kept_dtype(source.tensors[TOKEN_EMBEDDING])
    what = f"{FORMATS[kind][0]} without {WEIGHTS}" if kind == "huggingface" else FORMATS[kind][0]
    warnings.warn(
        f"{path}: is {what}: it is converted to {place} ({dtype}), which later runs use",
        stacklevel=4,
    )
    with replacing_folder(place) as made:
        convert_source(source, made, AS_STORED)
        if _record(source) != record:
            raise ModelError(f"{path}: was changed while it was converted; try again")
        record["made"] = {file.name: file.stat().st_size for file in made.iterdir()}
        (made / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _place(path: Path) -> Path:
    resolved = path.resolve()
    digest = hashlib.sha256(str(resolved).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    name = _NO_PART_OF_A_NAME.sub("_", resolved.stem)[:60].lstrip(".") or "model"
    return home_folder() / FOLDER / f"{name}-{digest}"


def _record(source: Source) -> dict[str, Any]:
    """What a conversion depends on. ``absent`` are files that would change it."""
    files = [identity(file, file.stat()) for file in source.files]
    beside = source.path if source.path.is_dir() else source.path.parent
    tokenizer = beside / TOKENIZER
    absent = [] if tokenizer in source.files or tokenizer.exists() else [str(tokenizer.resolve())]
    return {"version": __version__, "files": files, "absent": absent}


def _is_current(place: Path) -> bool:
    """Whether a model is there as it was made, and its source's files are what they were."""
    try:
        record = read_json(place / RECORD)
        files = [(Path(file["path"]), file) for file in record["files"]]
        return (
            record["version"] == __version__
            and all((place / name).stat().st_size == n for name, n in record["made"].items())
            and all(identity(path, path.stat()) == file for path, file in files)
            and not any(Path(path).exists() for path in record["absent"])
        )
    except (ModelError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return False


def _sweep(folder: Path) -> None:
    """Remove conversions whose sources are gone or have changed, unless they are being made."""
    from filelock import Timeout

    for place in folder.iterdir() if folder.is_dir() else ():
        if place.name.startswith(".") or _is_current(place):
            continue
        # What cannot be held is in nobody's way: it is being made, or another user's.
        with suppress(OSError, Timeout), _lock(place, wait=False):
            # It may have been made again before it could be held.
            if not _is_current(place):
                shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _lock(place: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a conversion, which a process that ends gives back."""
    # Imported here, as most models need no conversion.
    from filelock import FileLock, Timeout

    file = home_folder() / "locks" / f"{FOLDER}-{place.name}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file)
    with ExitStack() as held:
        try:
            held.enter_context(lock.acquire(timeout=0))
        except Timeout:
            if not wait:
                raise
            note(f"waiting for another process that converts {place}")
            held.enter_context(lock.acquire())
        yield
