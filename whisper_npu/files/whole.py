"""Files as a whole: read up to a limit, hashed, and replaced without half of one being seen."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from whisper_npu.errors import OutputError, WhisperNpuError

_BLOCK = 1 << 20


def open_regular(path: str | os.PathLike[str], error: type[WhisperNpuError]) -> BufferedReader:
    """Open a regular file, or a link to one, to read its bytes.

    A FIFO or a device is neither waited for nor read. Raises ``error``.
    """
    try:
        return _open_regular(path)
    except FileNotFoundError as reason:
        raise error(f"{path}: no such file") from reason
    except (OSError, ValueError) as reason:
        raise error(f"{path}: {_cannot_be_read(reason)}") from reason


def read_file(path: str | os.PathLike[str], limit: int, error: type[WhisperNpuError]) -> bytes:
    """All of a regular file of at most ``limit`` bytes. Raises ``error``."""
    with open_regular(path, error) as file:
        try:
            data = file.read(limit + 1)
        except OSError as reason:
            raise error(f"{path}: {_cannot_be_read(reason)}") from reason
    if len(data) > limit:
        raise error(f"{path}: has more than the {limit} bytes that are read")
    return data


def _open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Raises OSError, and ValueError for a name with a null byte."""
    return open(path, "rb", opener=_only_regular)


def _only_regular(path: str, flags: int) -> int:
    # Looked at twice: to open a device may have effects, and a FIFO may take the place of a file
    # after the first look. Without O_NONBLOCK, which Windows has not, to open a FIFO is to wait.
    _check_regular(os.stat(path))
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    try:
        _check_regular(os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _check_regular(found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "is not a regular file")


def _cannot_be_read(reason: Exception) -> str:
    return f"cannot be read: {getattr(reason, 'strerror', None) or reason}"


def file_sha256(path: Path) -> str:
    """SHA-256 of a regular file's bytes, in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    hash_file(path, digest)
    return digest.hexdigest()


def hash_file(path: Path, digest: hashlib._Hash) -> None:
    """Add a regular file's bytes to a hash. Raises OSError."""
    with _open_regular(path) as file:
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
