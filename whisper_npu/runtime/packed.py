"""Packed files: weights as plans want them, kept in the cache and mapped into memory.

A file holds the weights of one model in one set of forms. Its header names the version of the
package, the precision, the files of the model (path, size, times, inode), the tensors with their
forms, and checksums of all data. A file with another header, or with damaged data, is made again.
All processes on a machine share the pages of a file that they map. A file is written under another
name and renamed: no reader sees half of it.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from whisper_npu.files import temporary
from whisper_npu.files.whole import regular_file, replacing
from whisper_npu.home import home_folder
from whisper_npu.runtime.backend import Array, Shape
from whisper_npu.runtime.workers import in_threads
from whisper_npu.terminal import printable
from whisper_npu.version import __version__

U8 = NDArray[np.uint8]
U64 = NDArray[np.uint64]

FOLDER = "packed"
_SUFFIX = ".weights"
_MAGIC = b"whisper-npu packed weights 1\n"
_ALIGNMENT = 64
# The data begin at a whole page: huge ones of a file in memory begin at multiples of their size.
_DATA = 1 << 21
# Of Linux; the module mmap does not name it.
_MADV_POPULATE_READ = 22
# Seconds after which a file of an earlier version that is not finished has been given up.
_LONGEST_WRITE = 3600
# Bytes that have a checksum together.
_PART = 1 << 22
# 64-bit words of a row, and rows at a time, of a checksum.
_WORDS, _CHUNK = 2048, 64


class PackedTensor(NamedTuple):
    """A tensor in a packed file. ``order`` is "C" (by rows) or "F" (by columns)."""

    name: str
    dtype: str
    shape: Shape
    order: str

    @property
    def nbytes(self) -> int:
        """Bytes without those that fill up to the next tensor."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


def packed_folder() -> Path:
    """Where packed files are kept."""
    return home_folder() / FOLDER


def identity(path: Path, found: os.stat_result) -> dict[str, Any]:
    """What tells a file apart from others, and from what it was before a change.

    On POSIX systems the time of the last change of an inode cannot be set by programs.
    """
    return {
        "path": str(path.resolve()),
        "size": found.st_size,
        "modified": found.st_mtime_ns,
        "changed": found.st_ctime_ns,
        "inode": found.st_ino,
    }


class PackedFile:
    """The packed file of a model for some tensors in their forms, which need not be there.

    ``files`` are those of the model, as they were when they were opened. What kernels and
    instruction sets want of weights is in the forms: a file for others has another name, and so has
    one for another ``precision``.
    """

    def __init__(
        self,
        files: Mapping[Path, os.stat_result],
        tensors: Iterable[PackedTensor],
        precision: str,
    ) -> None:
        self._files, self._tensors = files, list(tensors)
        described = [{**t._asdict(), "shape": list(t.shape)} for t in self._tensors]
        model = [identity(path, files[path]) for path in sorted(files)]
        self._header = {
            "version": __version__,
            "precision": precision,
            "model": model,
            "tensors": described,
        }
        place = json.dumps([precision, described, [file["path"] for file in model]])
        name = hashlib.sha256(place.encode()).hexdigest()[:32]
        self.path = packed_folder() / f"{name}{_SUFFIX}"

    def open(self) -> dict[PackedTensor, Array] | None:
        """The tensors, read-only, in pages that other processes share; None if the file is not
        there, is not of this model as it is now, or is damaged."""
        tensors = self._tensors
        try:
            with regular_file(self.path) as file:
                header, checksums = _decode(file)
                size = os.fstat(file.fileno()).st_size
                if header != self._header or size != _end(tensors):
                    tell("%s: is not of the model as it is now", self.path)
                    return None
                mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
                _populate(mapped)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            tell("%s: cannot be used: %s", self.path, error)
            return None
        whole = np.frombuffer(mapped, np.uint8)
        if _checksums(whole) != checksums:
            tell("%s: is damaged and is made again", self.path, warn=True)
            return None
        places = zip(tensors, _offsets(tensors), strict=True)
        return {tensor: _view(whole, tensor, offset) for tensor, offset in places}

    @contextmanager
    def writer(self) -> Iterator[Writer]:
        """Write the file: it takes its place when all tensors have been written.

        Files of models that are gone or have changed are removed first. Raises OSError, also if
        the file would take more than half of what is free on the disk, or if the model changes
        while it is read.
        """
        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        sweep(self.path)
        if shutil.disk_usage(folder).free < 2 * _end(self._tensors):
            raise OSError(f"{folder} has too little room for {_end(self._tensors)} bytes")
        with replacing(self.path) as unfinished:
            with unfinished.open("r+b", buffering=0) as file:
                writer = Writer(file, self._tensors)
                yield writer
                header = _encode(self._header, writer.finish())
                if len(header) > _DATA:
                    raise OSError(f"a header of {len(header)} bytes has no room")
                file.seek(0)
                file.write(header)
            if any(
                identity(path, path.stat()) != identity(path, before)
                for path, before in self._files.items()
            ):
                raise OSError("the model was changed while it was read")


class Writer:
    """Takes the tensors of a packed file, in any order and from any thread."""

    def __init__(self, file: Any, tensors: Sequence[PackedTensor]) -> None:
        self._file, self._tensors = file, tensors
        self._offsets = dict(zip(tensors, _offsets(tensors), strict=True))
        self._missing = set(tensors)
        self._lock = threading.Lock()
        file.truncate(_end(tensors))

    def write(self, tensor: PackedTensor, array: Array) -> None:
        """Write one. Raises OSError, and ValueError for an array of another dtype or shape."""
        if str(array.dtype) != tensor.dtype or array.shape != tensor.shape:
            raise ValueError(f"{tensor} is not what {array.dtype} {array.shape} is")
        flat = np.ascontiguousarray(array.T if tensor.order == "F" else array).reshape(-1)
        raw = flat.view(np.uint8)
        with self._lock:
            self._missing.discard(tensor)
            self._file.seek(self._offsets[tensor])
            done = 0
            while done < raw.size:  # one call writes 2 GB at most
                done += self._file.write(raw[done:].data)

    def finish(self) -> list[str]:
        """The checksums of what was written. Raises ValueError if a tensor was not."""
        if self._missing:
            raise ValueError(f"{min(self._missing).name} was not written")
        mapped = mmap.mmap(self._file.fileno(), _end(self._tensors), access=mmap.ACCESS_READ)
        whole = np.frombuffer(mapped, np.uint8)
        checksums = _checksums(whole)
        # A map cannot be closed while there is a view of it; after an error others may have one.
        del whole
        mapped.close()
        return checksums


def _populate(mapped: mmap.mmap) -> None:
    """Have all pages mapped at once, and not one by one as they are read, where the system can."""
    if sys.platform == "linux":
        # Linux before 5.14 does not know it.
        with suppress(OSError):
            mapped.madvise(_MADV_POPULATE_READ)


def tell(message: str, *values: object, warn: bool = False) -> None:
    """Log what became of a packed file."""
    # Imported here: it takes as long as all other imports of this module, for what is rare.
    import logging

    logger = logging.getLogger("whisper_npu")
    shown = (printable(str(value)) for value in values)
    logger.log(logging.WARNING if warn else logging.INFO, message, *shown)


def sweep(kept: Path | None = None) -> None:
    """Remove the packed files of models that are gone or have changed, and what a crash left.

    One may be ``kept``, as something takes its place. What cannot be removed stays: another process
    may have it open, or another user own it.
    """
    temporary.sweep(packed_folder())
    for path in packed_folder().glob(f"*{_SUFFIX}"):
        with suppress(OSError):
            if path != kept and not temporary.is_temporary(path) and _is_stale(path):
                path.unlink()


def _is_stale(path: Path) -> bool:
    """Raises OSError where it cannot be known."""
    if path.name.startswith("."):
        # Of an earlier version, which may write it now.
        return time.time() - path.stat().st_mtime > _LONGEST_WRITE
    try:
        with regular_file(path) as file:
            header, _ = _decode(file)
        files = {Path(file["path"]): file for file in header["model"]}
        return any(identity(path, path.stat()) != file for path, file in files.items())
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (ValueError, KeyError, TypeError, RecursionError):
        return True


def _checksums(whole: U8) -> list[str]:
    """Of each part of the data of a file."""
    starts = range(_DATA, max(len(whole), _DATA + 1), _PART)
    found = [""] * len(starts)

    def compute(part: int) -> None:
        found[part] = checksum(whole[starts[part] : starts[part] + _PART])

    in_threads(compute, range(len(starts)))
    return found


def checksum(raw: U8) -> str:  # [nbytes] -> hexadecimal
    """SHA-256 of the sums of rows and columns of the 64-bit words, modulo 2^64, and of the rest.

    It finds damage, at the speed of memory: to hash every byte takes longer than to make a small
    model's weights again. It is no protection from somebody who may write to the cache.
    """
    count = raw.size // (8 * _WORDS)
    rows: U64 = raw[: 8 * _WORDS * count].view(np.uint64).reshape(count, _WORDS)
    of_rows, of_columns = np.empty(count, np.uint64), np.zeros(_WORDS, np.uint64)
    # Few rows at a time: they are read from memory once, and from a cache the second time.
    for start in range(0, count, _CHUNK):
        part = rows[start : start + _CHUNK]
        np.add.reduce(part, axis=1, out=of_rows[start : start + _CHUNK])
        of_columns += np.add.reduce(part, axis=0)
    digest = hashlib.sha256(of_rows.data)
    digest.update(of_columns.data)
    digest.update(raw[8 * _WORDS * count :].data)
    return digest.hexdigest()


def _offsets(tensors: Iterable[PackedTensor]) -> list[int]:
    offsets, offset = [], _DATA
    for tensor in tensors:
        offsets.append(offset)
        offset += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
    return offsets


def _end(tensors: Sequence[PackedTensor]) -> int:
    last = tensors[-1:]
    return _offsets(tensors)[-1] + last[0].nbytes if last else _DATA


def _encode(header: Mapping[str, Any], checksums: Sequence[str]) -> bytes:
    text = json.dumps({**header, "checksums": list(checksums)}).encode()
    return _MAGIC + len(text).to_bytes(8, "little") + text


def _decode(file: Any) -> tuple[dict[str, Any], list[str]]:
    """The header of a file, and the checksums in it. Raises ValueError and KeyError."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("is no packed file of this version")
    size = int.from_bytes(file.read(8), "little")
    if size > _DATA:
        raise ValueError(f"has a header of {size} bytes")
    header = json.loads(file.read(size))
    if not isinstance(header, dict):
        raise ValueError("has a header that is no object")
    return header, list(header.pop("checksums"))


def _view(whole: Array, tensor: PackedTensor, offset: int) -> Array:
    part: Array = whole[offset : offset + tensor.nbytes].view(tensor.dtype)
    if tensor.order == "F":
        columns: Array = part.reshape(tensor.shape[::-1]).T
        return columns
    return part.reshape(tensor.shape)
