"""Files as a whole: read up to a limit, hashed, and replaced without half of one being seen."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from whisper_npu.errors import OutputError, WhisperNpuError

_BLOCK = 1 << 20


def read_file(path: str | os.PathLike[str], limit: int, error: type[WhisperNpuError]) -> bytes:
    """All of a file of at most ``limit`` bytes. Raises ``error``."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(limit + 1)
    except OSError as reason:
        raise error(f"{path}: cannot be read: {reason.strerror}") from reason
    if len(data) > limit:
        raise error(f"{path}: more than the {limit} bytes that are read")
    return data


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    hash_file(path, digest)
    return digest.hexdigest()


def hash_file(path: Path, digest: hashlib._Hash) -> None:
    """Add a file's bytes to a hash. Raises OSError."""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that no file has: hidden, and of the same suffix."""
    # Not all of a long name: no name may be longer than 255 bytes.
    return path.with_name(f".{path.stem[:40]}.{os.urandom(8).hex()}{path.suffix}")


@contextmanager
def writing(path: Path, advice: str = "") -> Iterator[None]:
    """Make an OSError of the block an OutputError that names ``path`` and gives ``advice``."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        said = f" ({reason}); {advice}" if advice else f": {reason}"
        raise OutputError(f"{path}: cannot be written{said}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name for a new file, which takes the place of ``path`` if the block ends well.

    Otherwise it is removed, and ``path`` is what it was. Raises OSError.
    """
    # Not with the tempfile module: its files can be read by their owner only, also once renamed.
    temporary = temporary_name(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A new folder, which takes the place of ``path`` if the block ends well.

    Otherwise it is removed, and ``path`` is what it was. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    temporary.mkdir()
    try:
        yield temporary
        take_place(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def take_place(new: Path, path: Path) -> None:
    """Rename a folder to ``path``, and remove what was there.

    If that fails, ``path`` is what it was. Raises OSError.
    """
    old = temporary_name(path)
    try:
        if path.exists():
            path.rename(old)
        new.rename(path)
    except BaseException:
        if old.exists():
            old.rename(path)
        raise
    if old.exists():
        shutil.rmtree(old)
