"""Whether the file of a library may be loaded: what is loaded runs as the user does."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from whisper_npu.errors import KernelError
from whisper_npu.files.whole import file_sha256

_ROOT = 0


def check_library_file(path: Path, sha256: str) -> None:
    """Raise KernelError, in one line, for a file that is not as it was compiled, or that others
    may have changed or may change now.

    The file and its folder must belong to root or to the effective user, and others must not be
    able to write them. Where there are no such owners, as on Windows, only the hash is compared.
    """
    if hasattr(os, "geteuid"):
        # A link may lead to another folder: who can write in either can have another file loaded.
        for each in dict.fromkeys((path.parent, path.resolve().parent, path)):
            _check_owner(each)
    try:
        found = file_sha256(path)
    except OSError as error:
        raise KernelError(f"{path}: cannot be read: {error.strerror}") from error
    if found != sha256:
        raise KernelError(
            f"{path}: is not the file that was compiled (its SHA-256 is {found[:16]}..., not "
            f"{sha256[:16]}...); run whisper-npu kernels build"
        )


def _check_owner(path: Path) -> None:
    try:
        status = path.stat()
    except OSError as error:
        raise KernelError(f"{path}: cannot be read: {error.strerror}") from error
    user = os.geteuid()
    if status.st_uid not in (_ROOT, user):
        raise KernelError(
            f"{path}: belongs to user {status.st_uid}, not to root or to this user ({user}); "
            "install whisper-npu again as one of these, or run whisper-npu kernels build"
        )
    # A group of the user's own number has no other member: many systems give each user one, and
    # files are writable by it with umask 002. Images for arbitrary users have root's group write.
    own = status.st_gid in (_ROOT, user)
    if status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and not own):
        whose = "anybody" if status.st_mode & stat.S_IWOTH else f"group {status.st_gid}"
        raise KernelError(f"{path}: can be written by {whose}; run chmod go-w {path}")
