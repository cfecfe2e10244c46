"""Writing a safetensors file piece by piece, so that no tensor need be in memory as a whole."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_npu.model.stored import SAFETENSORS
from whisper_npu.model.weight_shapes import Shape

CHUNK = 8 << 20


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
        self._file = path.open("w+b")
        self._file.write(len(text).to_bytes(8, "little") + text)
        self._file.truncate(self._data_start + at)

    def write(self, name: str, rows: NDArray[Any]) -> None:
        """The next rows of a tensor, of its dtype."""
        data = np.ascontiguousarray(rows)
        self._file.seek(self._data_start + self._offsets[name] + self._written[name])
        self._file.write(data.data)
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
