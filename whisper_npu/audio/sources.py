"""Opening of audio sources: paths, standard input, bytes and file objects, as seekable files."""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from inspect import iscoroutinefunction
from typing import IO, Any, Protocol, cast

from numpy.typing import NDArray

from whisper_npu.errors import AudioError


class SupportsRead(Protocol):
    """A file object: a ``read`` that gives bytes is enough."""

    def read(self, size: int, /) -> bytes: ...


class SupportsArray(Protocol):
    """Samples of another library: a tensor of PyTorch, for example."""

    def __array__(self) -> NDArray[Any]: ...


AudioSource = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | SupportsRead
    | NDArray[Any]
    | SupportsArray
)

_SPOOL_BYTES = 32 * 2**20
# Of these it is known that they read as many bytes as are asked for, and can seek.
_TRUSTED = (io.BytesIO, io.BufferedReader, io.BufferedRandom)


@contextmanager
def open_audio(source: AudioSource) -> Iterator[tuple[IO[bytes], str]]:
    """Open a path, ``"-"``, the bytes of a file or a file object as a seekable file, with a name.

    Of a file object only ``read`` is needed; what cannot seek is copied to a temporary file first.
    An upload whose ``read`` is asynchronous is read through its attribute ``file``. Raises
    AudioError if there is nothing to open, the file is empty or it cannot be read.
    """
    with ExitStack() as opened:
        file, name = _open(source, opened)
        try:
            if not _is_seekable(file):
                copy = opened.enter_context(tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES))
                shutil.copyfileobj(file, copy)
                file = copy
            size = file.seek(0, os.SEEK_END) or file.tell()
        except Exception as error:
            raise unreadable(name, error) from error
        if size == 0:
            raise AudioError(f"{name}: is empty (0 bytes); give an audio file")
        yield file, name


def _open(source: Any, opened: ExitStack) -> tuple[IO[bytes], str]:
    """A file and its name; ``opened`` closes it if it is ours."""
    if isinstance(source, str | os.PathLike):
        path = os.fsdecode(source)
        if path != "-":
            return opened.enter_context(_open_path(path)), path
        if not hasattr(sys.stdin, "buffer"):
            raise AudioError("standard input: is closed or not binary; give a path")
        return _file_object(sys.stdin.buffer, "standard input"), "standard input"
    if not hasattr(source, "read"):
        with suppress(TypeError):
            content = source if isinstance(source, bytes) else memoryview(source).tobytes()
            return io.BytesIO(content), type(source).__name__
    name = _name(source)
    return _file_object(_reading(source, name), name), name


def _open_path(path: str) -> IO[bytes]:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file; check the name") from None
    except IsADirectoryError:
        raise AudioError(f"{path}: is a folder; give the audio files in it") from None
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error


def _name(source: object) -> str:
    """What the source is called: uploads have a ``filename``, files a ``name``."""
    names = (getattr(source, attribute, None) for attribute in ("filename", "name"))
    return next((name for name in names if isinstance(name, str) and name), "file object")


def _reading(source: Any, name: str) -> SupportsRead:
    """What of a source can be read. Raises AudioError if nothing can."""
    if isinstance(source, io.TextIOBase):
        raise AudioError(f"{name}: is open in text mode; open it in binary mode ('rb')")
    for each in (source, getattr(source, "file", None)):
        read = getattr(each, "read", None)
        if callable(read) and not iscoroutinefunction(read):
            return cast(SupportsRead, each)
    if hasattr(source, "read"):
        raise AudioError(f"{name}: its read() is asynchronous; give what it returns: await read()")
    raise AudioError(
        f"cannot read audio from a {type(source).__name__}; "
        "give a path, bytes, a file open in binary mode or a NumPy array"
    )


def _file_object(source: SupportsRead, name: str) -> IO[bytes]:
    # A class of its own may read less than it is asked for, or what is no bytes.
    if type(source) in _TRUSTED:
        return source  # type: ignore[return-value]
    return io.BufferedReader(_Checked(source))


def _is_seekable(file: IO[bytes]) -> bool:
    # In Python 3.10, SpooledTemporaryFile is seekable but cannot say so.
    return not hasattr(file, "seekable") or file.seekable()


class _Checked(io.RawIOBase):
    """A file object of any make, which is not closed with this one."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        source = self._source
        if not (
            callable(getattr(source, "seek", None)) and callable(getattr(source, "tell", None))
        ):
            return False
        return _is_seekable(source)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._source.seek(offset, whence)
        return self.tell()

    def tell(self) -> int:
        position: int = self._source.tell()
        return position

    def readinto(self, buffer: Any) -> int:
        data = self._source.read(len(buffer))
        if not isinstance(data, bytes | bytearray | memoryview):
            remedy = "; open it in binary mode" if isinstance(data, str) else ""
            raise TypeError(f"its read() gives {type(data).__name__}, not bytes{remedy}")
        if len(data) > len(buffer):
            raise ValueError("its read() gives more bytes than it is asked for")
        buffer[: len(data)] = data
        return len(data)


def unreadable(name: str, error: BaseException) -> AudioError:
    """The error for a source that fails while it is opened or read."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return AudioError(f"{name}: cannot be read ({reason or type(error).__name__})")
