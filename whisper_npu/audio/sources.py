"""Opening of audio sources: paths, standard input, bytes and file objects, as seekable files."""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any, BinaryIO

from numpy.typing import NDArray

from whisper_npu.errors import AudioError

AudioSource = str | os.PathLike[str] | bytes | BinaryIO | NDArray[Any]

_SPOOL_BYTES = 32 * 2**20


@contextmanager
def open_audio(
    source: str | os.PathLike[str] | bytes | BinaryIO,
) -> Iterator[tuple[IO[bytes], str]]:
    """Open a path, ``"-"``, bytes or a binary file object as a seekable file, with a name for it.

    Pipes are copied to a temporary file first. Raises AudioError if there is nothing to open or the
    file is empty.
    """
    if isinstance(source, bytes):
        file: IO[bytes] = io.BytesIO(source)
        name, owned = "bytes", True
    elif isinstance(source, (str, os.PathLike)):
        name, owned = os.fspath(source), True
        if name == "-":
            file, name, owned = sys.stdin.buffer, "standard input", False
        else:
            file = _open_path(name)
    elif hasattr(source, "read") and not isinstance(source, io.TextIOBase):
        file, owned = source, False
        name = str(getattr(source, "name", "file object"))
    else:
        raise AudioError(
            f"cannot read audio from a {type(source).__name__}; "
            "give a path, bytes, a file open in binary mode or a NumPy array"
        )
    with ExitStack() as opened:
        if owned:
            opened.enter_context(file)
        try:
            # In Python 3.10, SpooledTemporaryFile is seekable but cannot say so.
            if hasattr(file, "seekable") and not file.seekable():
                copy = opened.enter_context(tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES))
                shutil.copyfileobj(file, copy)
                file = copy
            size = file.seek(0, os.SEEK_END) or file.tell()
        except OSError as error:
            raise unreadable(name, error) from error
        if size == 0:
            raise AudioError(f"{name}: is empty (0 bytes); give an audio file")
        yield file, name


def _open_path(path: str) -> IO[bytes]:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file; check the name") from None
    except IsADirectoryError:
        raise AudioError(f"{path}: is a folder; give the audio files in it") from None
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error


def unreadable(name: str, error: BaseException) -> AudioError:
    """The error for a source that fails while it is opened or read."""
    reason = getattr(error, "strerror", None) or error
    return AudioError(f"{name}: cannot be read ({reason})")
