"""Temporary files and folders beside what they will become, which no crash leaves for ever.

Each is locked by who made it, until it gets its name or is removed. One that nobody holds was left
by a process that was killed: the next one that makes another in that folder removes it.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ParamSpec

try:
    import fcntl
except ImportError:  # where processes that are killed leave no lock to tell them from others
    fcntl = None  # type: ignore[assignment]

P = ParamSpec("P")

_MARK = ".whisper-npu-"
_TEMPORARY = re.compile(rf"\..*{re.escape(_MARK)}[0-9a-f]{{16}}(\..*)?", re.DOTALL)
# What was at a name while something else takes its place, where that takes two steps.
_OLD = f"{_MARK}old"
# Seconds after which one has been given up where there are no locks.
_LONGEST_USE = 24 * 3600

# Folders that this process has swept.
_swept: set[Path] = set()


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that no file has: hidden, and of the same suffix."""
    # Not all of a long name: no name may be longer than 255 bytes.
    return path.with_name(f".{path.stem[:20]}{_MARK}{os.urandom(8).hex()}{path.suffix}")


def is_temporary(path: Path) -> bool:
    """Whether a name is one of ``temporary_name``."""
    return _TEMPORARY.fullmatch(path.name) is not None


def old_name(path: Path) -> Path:
    """The name of what was at ``path`` while something else takes its place: ``sweep`` gives it
    its name back, if nothing has."""
    return path.with_name(f".{path.name}{_OLD}")


@contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """A new file beside ``path`` that is empty, and removed at the end if it is still there.

    Raises OSError.
    """
    # Not with the tempfile module: its files can be read by their owner only, also once renamed.
    with _claimed(path, _make_file) as temporary:
        try:
            yield temporary
        finally:
            with suppress(OSError):
                to_the_end(temporary.unlink, missing_ok=True)


@contextmanager
def temporary_folder(path: Path, mode: int = 0o777) -> Iterator[Path]:
    """A new folder beside ``path``, which is removed at the end if it is still there.

    Raises OSError.
    """

    def make(temporary: Path) -> int:
        temporary.mkdir(mode)
        return _open(temporary)

    with _claimed(path, make) as temporary:
        try:
            yield temporary
        finally:
            to_the_end(shutil.rmtree, temporary, ignore_errors=True)


def to_the_end(change: Callable[P, object], *arguments: P.args, **options: P.kwargs) -> None:
    """Carry out a change of files that can be begun again; an interrupt is raised at its end."""
    try:
        change(*arguments, **options)
    except KeyboardInterrupt:
        change(*arguments, **options)
        raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file or folder that is there, where the system can: ``sweep`` leaves it alone, and who
    else wants to hold it waits. Raises OSError if it is not there."""
    descriptor = _open(path)
    try:
        if fcntl is not None:
            # Not every file system has locks.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove what killed processes have left in a folder.

    What cannot be removed stays: another process holds it, or another user owns it.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for name in [entry.name for entry in entries]:
            path = folder / name
            with suppress(OSError):
                if is_temporary(path):
                    _unless_held(path, _remove)
                elif name.startswith(".") and name.endswith(_OLD):
                    _unless_held(path, _put_back)


@contextmanager
def _claimed(path: Path, make: Callable[[Path], int]) -> Iterator[Path]:
    """A temporary name beside ``path`` for what ``make`` makes and opens; held by this process."""
    folder = path.parent.absolute()
    # Once: to write many files into a folder of many must not take longer and longer.
    if folder not in _swept:
        _swept.add(folder)
        sweep(folder)
    while True:
        temporary = temporary_name(path)
        descriptor = make(temporary)
        if _hold(descriptor, temporary):
            break
        # Swept before it could be held.
        os.close(descriptor)
    try:
        if fcntl is None and descriptor >= 0:
            # Where files that are open cannot be renamed.
            os.close(descriptor)
            descriptor = -1
        yield temporary
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _make_file(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)


def _open(path: Path) -> int:
    """Open what is there, to hold it; -1 for a folder where folders cannot be opened."""
    if fcntl is None:
        return -1
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)


def _hold(descriptor: int, path: Path) -> bool:
    """Whether what is open is held from now on, and still has its name."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # A file system without locks: nobody else can hold it, nor sweep it.
        return True
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _unless_held(path: Path, change: Callable[[Path], None]) -> None:
    """Change what nobody holds. Raises OSError."""
    if fcntl is None:
        if time.time() - path.lstat().st_mtime > _LONGEST_USE:
            change(path)
        return
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        change(path)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if stat.S_ISDIR(path.lstat().st_mode):
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


def _put_back(path: Path) -> None:
    name = path.with_name(path.name[1:].removesuffix(_OLD))
    if os.path.lexists(name):
        _remove(path)
    else:
        path.rename(name)
