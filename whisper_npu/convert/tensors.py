"""What every reader of a source format gives: a model whose tensors are read in blocks of rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from whisper_npu.errors import ModelError
from whisper_npu.files.whole import open_regular
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.model.stored import FLOAT32, StoredType, read_rows
from whisper_npu.model.weight_names import WeightNames, check_output, find_weights, sinusoids
from whisper_npu.model.weight_shapes import (
    ENCODER_POSITIONS,
    TOKEN_EMBEDDING,
    Shape,
    weight_specification,
)
from whisper_npu.ops.arrays import F32

BLOCK_BYTES = 8 << 20

# No Whisper has more than 1,300 tensors; a file can claim any number.
LARGEST_TENSOR_COUNT = 1 << 16
# Longer than any name that a format's own writer gives a tensor.
_LONGEST_NAME = 200


class StoredTensor(Protocol):
    """A tensor in a file. ``n_bytes`` is what it takes there."""

    @property
    def shape(self) -> Shape: ...

    @property
    def stored(self) -> StoredType: ...

    @property
    def n_bytes(self) -> int: ...

    def blocks(self, block_bytes: int) -> Iterator[F32]:
        """Consecutive rows as float32, at most ``block_bytes`` (or one row) at a time."""


@dataclass(frozen=True)
class RowScale:
    """float32 [rows] at byte ``start`` of the tensor's file: a row is its integers times its scale,
    or divided by it (``divides``)."""

    start: int
    divides: bool

    def apply(self, file: BufferedReader, first: int, block: F32) -> None:
        """Scale in place the rows from ``first`` on, which are ``block``."""
        shape = (len(block),)
        at = self.start + FLOAT32.size(first)
        (scale,) = read_rows(file, at, shape, FLOAT32, FLOAT32.size(len(block)))
        scale = scale.reshape(-1, *[1] * (block.ndim - 1))
        # The file may hold any scale; what comes out is looked at where it is quantised.
        with np.errstate(all="ignore"):
            (np.divide if self.divides else np.multiply)(block, scale, out=block)


@dataclass(frozen=True)
class Rows:
    """A tensor whose rows follow each other from byte ``start`` of a file."""

    path: Path
    start: int
    shape: Shape
    stored: StoredType
    scale: RowScale | None = None

    @property
    def n_bytes(self) -> int:
        return self.stored.size(math.prod(self.shape))

    def blocks(self, block_bytes: int) -> Iterator[F32]:
        first = 0
        with open_regular(self.path, ModelError) as file:
            for block in read_rows(file, self.start, self.shape, self.stored, block_bytes):
                if self.scale is not None:
                    self.scale.apply(file, first, block)
                first += len(block)
                yield block


@dataclass(frozen=True)
class Computed:
    """A tensor that no file has to hold: ``values`` are float32."""

    values: F32

    @property
    def shape(self) -> Shape:
        return self.values.shape

    @property
    def stored(self) -> StoredType:
        return FLOAT32

    @property
    def n_bytes(self) -> int:
        return 0

    def blocks(self, block_bytes: int) -> Iterator[F32]:
        count = max(1, block_bytes // (4 * math.prod(self.shape[1:])))
        for first in range(0, self.shape[0], count):
            yield self.values[first : first + count].copy()


@dataclass(frozen=True)
class Source:
    """A model in one of the formats that are read.

    ``kind`` is the format: huggingface, openai, ggml or ctranslate2. ``files`` are all that were
    read, ``dtype`` is how most bytes of the weights are stored. ``shapes`` are the weights of
    the specification, by Hugging Face names. ``config`` and ``generation`` are the contents of
    config.json and generation_config.json, made from the dimensions and the vocabulary where the
    format has none; ``tokenizer`` is the text of tokenizer.json, None if there is no vocabulary.
    """

    kind: str
    path: Path
    files: tuple[Path, ...]
    dtype: str
    dims: ModelDimensions
    tensors: Mapping[str, StoredTensor]
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    tokenizer: str | None

    @property
    def shapes(self) -> Mapping[str, Shape]:
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    def blocks(self, name: str) -> Iterator[F32]:
        """The rows (first axis) of a tensor in consecutive blocks of at most ``BLOCK_BYTES``, or
        one row: float32, contiguous. Raises ModelError if the file changed meanwhile."""
        try:
            yield from self.tensors[name].blocks(BLOCK_BYTES)
        except OSError as error:
            raise ModelError(f"{self.path}: tensor {name}: {error}") from error


def check_name(name: str, path: Path) -> str:
    """The name of a tensor, as it may stand in a message. Raises ModelError."""
    if not name.isascii() or not name.isprintable() or len(name) > _LONGEST_NAME:
        raise ModelError(f"{path}: a tensor has the name {name[:_LONGEST_NAME]!r}")
    return name


def checked_weights(
    tensors: Mapping[str, StoredTensor], dims: ModelDimensions, source: Path
) -> tuple[dict[str, StoredTensor], str]:
    """As ``located_weights``, where all tensors of a source can be read."""
    names = find_weights({n: tensor.shape for n, tensor in tensors.items()}, dims, str(source))
    return located_weights(names, tensors.__getitem__, dims, source)


def located_weights(
    names: WeightNames,
    locate: Callable[[str], StoredTensor],
    dims: ModelDimensions,
    source: Path,
) -> tuple[dict[str, StoredTensor], str]:
    """The weights of the specification, in its order, and how most of their bytes are stored.

    ``locate`` gives a tensor by the name that the source has for it. Raises ModelError if an output
    layer of its own differs from the token embedding, and what ``locate`` raises.
    """
    found = {name: locate(stored) for name, stored in names.found.items()}
    if names.output is not None:
        output, embedding = locate(names.output), found[TOKEN_EMBEDDING]
        if output != embedding:
            both = (tensor.blocks(BLOCK_BYTES) for tensor in (output, embedding))
            check_output(zip(*both, strict=True), names.output, str(source))
    if ENCODER_POSITIONS not in found:
        found[ENCODER_POSITIONS] = Computed(sinusoids(dims, str(source)))
    stored: Counter[str] = Counter()
    for tensor in found.values():
        stored[tensor.stored.name] += tensor.n_bytes
    return {name: found[name] for name in weight_specification(dims)}, stored.most_common(1)[0][0]


def check_sharing(tensors: Mapping[str, StoredTensor], file_bytes: int, source: Path) -> None:
    """Refuse a small file whose tensors are the same bytes over and over. Raises ModelError."""
    if sum(tensor.n_bytes for tensor in tensors.values()) > 2 * file_bytes:
        raise ModelError(f"{source}: its tensors share their bytes; it is not a Whisper model")
