"""Downloading one file: resumed, hashed as it comes, and there whole and right or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from whisper_npu.errors import ModelError
from whisper_npu.hub.client import BLOCK, Hub, Interrupted, RemoteFile, Snapshot, persevere

PART = ".part"


class _Corrupt(Exception):
    """What came is not the file; the message says how it differs."""


def fetch(hub: Hub, snapshot: Snapshot, file: RemoteFile, folder: Path, progress: bool) -> Path:
    """The path of a file of a repository in ``folder``, downloaded unless it is there and right.

    What is there of it as ``NAME.part`` is continued, and what comes is appended to that: it stays
    when the download fails. A file that comes wrong is downloaded once more, from its start. Raises
    ModelError, and OSError if the folder cannot be written.
    """
    from tqdm import tqdm

    target, part = folder / file.name, folder / (file.name + PART)
    # A file of an earlier call is read again: a power cut may have left a hole in it.
    if target.exists():
        target.replace(part)
    bar = tqdm(
        total=file.size,
        unit="B",
        unit_scale=True,
        desc=file.name,
        # None: unless stderr is a terminal.
        disable=None if progress else True,
    )
    with bar:
        for again in (True, False):
            try:
                persevere(lambda: _continue(hub, snapshot, file, part, bar))
            except _Corrupt as error:
                part.unlink()
                if not again:
                    raise ModelError(
                        f"{snapshot.repository}: {file.name} comes wrong from {hub.endpoint}: "
                        f"{error}; it came so twice"
                    ) from None
            else:
                break
    os.replace(part, target)
    return target


def _continue(hub: Hub, snapshot: Snapshot, file: RemoteFile, part: Path, bar: Any) -> None:
    """Append what is missing. Raises Interrupted, _Corrupt, ModelError and OSError."""
    with part.open("a+b") as out:
        digest = _new_digest(file)
        out.seek(0)
        while block := out.read(BLOCK):
            digest.update(block)
        position = out.tell()
        _show(bar, position)
        if position < file.size:
            try:
                with hub.open(snapshot, file.name, position) as (start, blocks):
                    if start != position:
                        out.truncate(0)
                        digest, position = _new_digest(file), 0
                    for block in blocks:
                        position += len(block)
                        if position > file.size:
                            raise _Corrupt(f"it has more than {file.size} bytes")
                        out.write(block)
                        digest.update(block)
                        _show(bar, position)
                if position < file.size:
                    raise Interrupted(
                        f"{snapshot.repository}: {file.name} ended after {position} of "
                        f"{file.size} bytes"
                    )
            except Interrupted as error:
                error.position = position
                raise
    if digest.hexdigest() != file.digest:
        raise _Corrupt(f"its {file.algorithm} is {digest.hexdigest()}, not {file.digest}")


def _new_digest(file: RemoteFile) -> hashlib._Hash:
    if file.algorithm == "sha256":
        return hashlib.sha256()
    # As git hashes a blob.
    return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)


def _show(bar: Any, position: int) -> None:
    bar.update(position - bar.n)
