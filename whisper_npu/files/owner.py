"""Who may write a file: what runs, and what says that it may, is nobody else's to change."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from whisper_npu.errors import WhisperNpuError

_ROOT = 0
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def check_owners(path: Path, error: type[WhisperNpuError], advice: str) -> None:
    """Raise ``error``, in one line with ``advice``, for a file that others may have changed or may
    change now.

    The file and its folder must belong to root or to the effective user, and others must not be
    able to write them. Where there are no such owners, as on Windows, nothing is checked.
    """
    if hasattr(os, "geteuid"):
        # A link may lead to another folder: who can write in either can have another file read.
        real = Path(os.path.realpath(path))
        for each in dict.fromkeys((path.parent, real.parent, path)):
            _check_owner(each, error, advice)


def _check_owner(path: Path, error: type[WhisperNpuError], advice: str) -> None:
    try:
        status = path.stat()
    except OSError as reason:
        raise error(f"{path}: cannot be read: {reason.strerror}") from reason
    user = os.geteuid()
    if status.st_uid not in (_ROOT, user):
        raise error(
            f"{path}: belongs to user {status.st_uid}, not to root or to this user ({user}); "
            f"{advice}"
        )
    # A group of the user's own number has no other member: many systems give each user one, and
    # files are writable by it with umask 002. Images for arbitrary users have root's group write.
    own = status.st_gid in (_ROOT, user)
    if status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and not own):
        whose = "anybody" if status.st_mode & stat.S_IWOTH else f"group {status.st_gid}"
        raise error(f"{path}: can be written by {whose}; run chmod go-w {path}")


def make_private(folder: Path) -> None:
    """Have a folder that others cannot write, if it is ours. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    keep_private(folder)


def keep_private(path: Path) -> None:
    """Let others not write a file or folder, if it is ours, whatever the umask. Raises OSError."""
    mode = path.stat().st_mode
    if mode & _OTHERS_WRITE:
        with suppress(PermissionError):
            path.chmod(mode & ~_OTHERS_WRITE)
