"""Loading a model folder: Hugging Face's layout, weights as floats, or the integers of int8."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whisper_npu.errors import ModelError
from whisper_npu.model.dims import ModelDimensions, dimensions_from_config
from whisper_npu.model.folder import CONFIG, GENERATION
from whisper_npu.model.integer_files import CONVERT_FLOATS, holds_integers, stored_integers
from whisper_npu.model.integer_weights import IntegerWeights, quantized_weights
from whisper_npu.model.json_file import read_json
from whisper_npu.model.safetensors_file import SafetensorsFile, find_stored, open_files
from whisper_npu.model.stored import is_finite
from whisper_npu.model.weight_names import check_output, sinusoids
from whisper_npu.model.weight_shapes import ENCODER_POSITIONS, TOKEN_EMBEDDING, scale_name
from whisper_npu.ops.arrays import F32, I8
from whisper_npu.ops.quant import LARGEST, Quantized

# Values of the token embedding that are compared with an output layer in one go.
_COMPARED = 1 << 20
# With a larger scale, an integer's weight is beyond float32.
_LARGEST_SCALE = np.finfo(np.float32).max / LARGEST


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk.

    ``weights`` maps Hugging Face names to float32 arrays, or to integers with their scales where a
    folder of an earlier version holds int8; of a folder that ``convert`` made for int8 they are the
    integers that precision int8 computes with. Those of ``load_checkpoint`` are read when they are
    asked for.
    """

    path: Path
    dims: ModelDimensions
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    weights: Mapping[str, F32 | Quantized] | IntegerWeights

    @property
    def has_int8_weights(self) -> bool:
        """Whether matrices are stored as integers."""
        return self.has_only_integers or self.is_quantized_again

    @property
    def has_only_integers(self) -> bool:
        """Whether nothing but precision int8 can be computed with the weights."""
        return isinstance(self.weights, IntegerWeights)

    @property
    def is_quantized_again(self) -> bool:
        """Whether precision int8 rounds integers once more, of a folder of an earlier version."""
        return isinstance(self.weights, StoredWeights) and bool(self.weights.integers)

    def float_weights(self) -> Mapping[str, F32 | Quantized]:
        """The weights for precision float32. Raises ModelError if there are only integers."""
        if isinstance(self.weights, IntegerWeights):
            raise ModelError(
                f"{self.path}: holds integers for precision int8 only; for float32, "
                f"{CONVERT_FLOATS}"
            )
        return self.weights

    def integer_weights(self) -> IntegerWeights:
        """The weights for precision int8, made of floats where the folder has those."""
        weights = self.weights
        if isinstance(weights, IntegerWeights):
            return weights
        if isinstance(weights, StoredWeights):
            return quantized_weights(weights.rows, self.dims, weights.files)

        def rows(name: str, part: slice | None) -> F32 | Quantized:
            return weights[name] if part is None else weights[name][part]

        return quantized_weights(rows, self.dims)


class StoredWeights(Mapping[str, F32 | Quantized]):
    """The weights in the files of a model folder, the largest first.

    What is asked for is read at that time, so that memory need not hold the model twice while it is
    converted; from any thread. Raises ModelError then if the file was cut off or holds what no
    weight may. ``shapes`` are those of all weights; ``integers`` are the names of those that are
    stored as int8; ``files`` are the files, as they were when their headers were read.
    """

    def __init__(
        self, files: Mapping[str, SafetensorsFile], dims: ModelDimensions, folder: Path
    ) -> None:
        names = find_stored(files, dims, folder)
        entries = {name: files[stored].entries[stored] for name, stored in names.found.items()}
        self._by_tensor, self._folder, self._tensors = files, folder, names.found
        self.files = {file.path: file.found for file in files.values()}
        self.shapes = {name: entry.shape for name, entry in entries.items()}
        self.integers = frozenset(name for name, e in entries.items() if e.dtype == "I8")
        sizes = {name: entry.stop - entry.start for name, entry in entries.items()}
        self._computed: dict[str, F32] = {}
        if ENCODER_POSITIONS not in entries:
            self._computed[ENCODER_POSITIONS] = positions = sinusoids(dims, str(folder))
            self.shapes[ENCODER_POSITIONS] = positions.shape
            sizes[ENCODER_POSITIONS] = positions.nbytes
        self._names = dict.fromkeys(sorted(sizes, key=lambda name: -sizes[name]))
        if names.output is not None:
            self._check_output(names.output)

    def __getitem__(self, name: str) -> F32 | Quantized:
        return self.rows(name, None)

    def rows(self, name: str, part: slice | None) -> F32 | Quantized:
        """Some rows of a weight, to be converted and dropped; None: all of it, to be kept."""
        if name in self._computed:
            return self._computed[name][part or slice(None)]
        return self._read(self._tensors[name], part)

    def _read(self, tensor: str, part: slice | None) -> F32 | Quantized:
        array = self._by_tensor[tensor].read(tensor, part)
        if array.dtype != np.int8:
            if not is_finite(array):
                raise ModelError(f"{self._folder}: tensor {tensor} holds NaN or infinity")
            return array
        scale = self._by_tensor[scale_name(tensor)].read(scale_name(tensor), part)
        return _quantized(array, scale, tensor, self._folder)

    def _check_output(self, output: str) -> None:
        embedding = self._tensors[TOKEN_EMBEDDING]
        n, k = self.shapes[TOKEN_EMBEDDING]
        count = max(1, _COMPARED // k)
        parts = [slice(first, min(first + count, n)) for first in range(0, n, count)]
        pairs = ((self._floats(output, part), self._floats(embedding, part)) for part in parts)
        check_output(pairs, output, str(self._folder))

    def _floats(self, tensor: str, part: slice) -> F32:
        weight = self._read(tensor, part)
        return weight.dequantize() if isinstance(weight, Quantized) else weight

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Open a Hugging Face directory (model.safetensors, or the sharded form with its index).

    Names and shapes are checked here, what weights hold when they are read. Floating-point weights
    become float32; integers stay what they are. Warns of tensors that are no weights. Raises
    ModelError.
    """
    folder = Path(path)
    if not folder.is_dir():
        what = "is not a directory" if folder.exists() else "does not exist"
        raise ModelError(f"{folder}: {what}; --model takes a folder with config.json")
    config = read_json(folder / CONFIG)
    dims = dimensions_from_config(config, str(folder / CONFIG))
    generation_file = folder / GENERATION
    generation = read_json(generation_file) if generation_file.exists() else {}
    files = open_files(folder)
    weights = (stored_integers if holds_integers(files, folder) else StoredWeights)(
        files, dims, folder
    )
    return Checkpoint(folder, dims, config, generation, weights)


def _quantized(values: I8, scale: F32, name: str, source: Path) -> Quantized:
    if not (scale >= 0).all() or (scale > _LARGEST_SCALE).any():
        raise ModelError(
            f"{source}: tensor {scale_name(name)} holds a scale that is negative, NaN, or so large "
            "that weights are infinite"
        )
    if values.size and values.min() < -127:
        # An exact sum over K in float32 counts on products of at most 127 * 127.
        raise ModelError(f"{source}: tensor {name} holds -128; integers are in [-127, 127]")
    return Quantized(values, scale)
