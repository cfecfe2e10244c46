"""Writing a safetensors file piece by piece, so that no tensor need be in memory as a whole."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_npu.errors import OutputError
from whisper_npu.model.safetensors_file import SafetensorsFile
from whisper_npu.model.stored import SAFETENSORS
from whisper_npu.model.weight_shapes import Shape

SAFETENSORS_NAMES = {stored.name: name for name, stored in SAFETENSORS.items()}
_CHUNK = 8 << 20


@dataclass(frozen=True)
class OutputTensor:
    """A tensor that is to be written: ``dtype`` as safetensors names it."""

    name: str
    dtype: str
    shape: Shape

    @property
    def n_bytes(self) -> int:
        """What it takes in the file."""
        return SAFETENSORS[self.dtype].size(math.prod(self.shape))


class SafetensorsWriter:
    """A safetensors file whose tensors are written in any order and in pieces of whole rows.

    ``metadata`` values are strings. Raises OSError.
    """

    def __init__(
        self, path: Path, tensors: Sequence[OutputTensor], metadata: Mapping[str, str]
    ) -> None:
        # Larger types come first: so every tensor is aligned to its type.
        ordered = sorted(tensors, key=lambda t: (-SAFETENSORS[t.dtype].size(1), t.name))
        header: dict[str, Any] = {"__metadata__": dict(metadata)}
        self._offsets: dict[str, int] = {}
        at = 0
        for tensor in ordered:
            end = at + tensor.n_bytes
            header[tensor.name] = {
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "data_offsets": [at, end],
            }
            self._offsets[tensor.name] = at
            at = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._data_start = 8 + len(text)
        self._written = dict.fromkeys(self._offsets, 0)
        #: Of what each tensor is to hold.
        self.digests = {name: hashlib.sha256() for name in self._offsets}
        self._file = path.open("w+b")
        self._file.write(len(text).to_bytes(8, "little") + text)
        self._file.truncate(self._data_start + at)

    def write(self, name: str, rows: NDArray[Any]) -> None:
        """The next rows of a tensor, of its dtype."""
        data = np.ascontiguousarray(rows)
        self._file.seek(self._data_start + self._offsets[name] + self._written[name])
        self._file.write(data.data)
        self.digests[name].update(data.data)
        self._written[name] += data.nbytes

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, where: TracebackType | None
    ) -> None:
        if kind is None:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()


@contextmanager
def writing_tensors(
    path: Path, tensors: Sequence[OutputTensor], metadata: Mapping[str, str]
) -> Iterator[SafetensorsWriter]:
    """A file to be written to, which is read back and compared at the end.

    Raises OSError, and OutputError if it reads back different.
    """
    with SafetensorsWriter(path, tensors, metadata) as writer:
        yield writer
    _read_back(path, {name: digest.hexdigest() for name, digest in writer.digests.items()})


def _read_back(path: Path, digests: Mapping[str, str]) -> None:
    """Compare the file with what was meant to be in it. Raises OutputError."""
    written = SafetensorsFile(path)
    with path.open("rb") as file:
        for name, expected in digests.items():
            entry = written.entries[name]
            file.seek(written.data_start + entry.start)
            digest, left = hashlib.sha256(), entry.stop - entry.start
            while left and (chunk := file.read(min(left, _CHUNK))):
                digest.update(chunk)
                left -= len(chunk)
            if digest.hexdigest() != expected:
                raise OutputError(
                    f"{path}: tensor {name} reads back different from what was "
                    "written; check the disk"
                )
