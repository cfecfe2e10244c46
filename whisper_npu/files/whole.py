"""Files as a whole: read up to a limit, hashed, and replaced without half of one being seen."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from whisper_npu.errors import OutputError, WhisperNpuError
from whisper_npu.files.temporary import locked, old_name, temporary_file, temporary_folder

_BLOCK = 1 << 20
# Of Linux's renameat2.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def open_regular(path: str | os.PathLike[str], error: type[WhisperNpuError]) -> BufferedReader:
    """Open a regular file, or a link to one, to read its bytes.

    A FIFO or a device is neither waited for nor read. Raises ``error``.
    """
    try:
        return regular_file(path)
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


def regular_file(path: str | os.PathLike[str]) -> BufferedReader:
    """As ``open_regular``. Raises OSError, and ValueError for a name with a null byte."""
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
    with regular_file(path) as file:
        while block := file.read(_BLOCK):
            digest.update(block)


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
    """A new file, empty, which takes the place of ``path`` if the block ends well.

    Otherwise it is removed, and ``path`` is what it was. Raises OSError.
    """
    with temporary_file(path) as temporary:
        yield temporary
        os.replace(temporary, path)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A new folder, which takes the place of ``path`` if the block ends well.

    Otherwise it is removed, and ``path`` is what it was. Raises OSError.
    """
    # The place of what a link leads to: the link stays.
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(path) as temporary:
        yield temporary
        take_place(temporary, path)


def take_place(new: Path, path: Path) -> None:
    """Give a folder the name ``path``, and remove what had it.

    Where the system can exchange two names there is no instant without one. If that fails,
    ``path`` is what it was. Raises OSError.
    """
    if not path.exists():
        new.rename(path)
    elif _exchange(new, path):
        shutil.rmtree(new)
    else:
        old = old_name(path)
        with locked(path):
            path.rename(old)
            try:
                new.rename(path)
            except BaseException:
                old.rename(path)
                raise
            shutil.rmtree(old)


def _exchange(a: Path, b: Path) -> bool:
    """Whether two names, of one file system, have been exchanged in one step."""
    # Imported here: most runs replace no folder.
    import ctypes

    try:
        # Of Linux; not every file system does it.
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        # Another C library, or a system where libraries have to be named.
        return False
    names = (os.fsencode(a.absolute()), os.fsencode(b.absolute()))
    return bool(rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)
