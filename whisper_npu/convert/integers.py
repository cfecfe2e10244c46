"""Writing the integers of precision int8, which the floats of any source are folded into."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from whisper_npu.convert.calibration import Window
from whisper_npu.convert.errors_table import ErrorMeter, TensorError
from whisper_npu.convert.rounding import Rounded, round_calibrated, round_to_nearest
from whisper_npu.convert.safetensors_writer import (
    SAFETENSORS_NAMES,
    OutputTensor,
    writing_tensors,
)
from whisper_npu.convert.tensors import Source
from whisper_npu.errors import ModelError
from whisper_npu.model.folder import FORMAT_VERSION
from whisper_npu.model.integer_files import VERSION_KEY
from whisper_npu.model.integer_weights import (
    DECODER_POSITIONS,
    Folding,
    bias_name,
    fixed_point,
    integer_specification,
)
from whisper_npu.model.stored import is_finite
from whisper_npu.model.weight_shapes import ENCODER_POSITIONS, scale_name
from whisper_npu.ops.arrays import F32
from whisper_npu.ops.fixed import F64, FRACTION

# What the metadata says of such a file. Programs that read floats by the names of these weights
# know other formats.
METADATA = {
    "format": "whisper-npu",
    VERSION_KEY: str(FORMAT_VERSION),
    "scheme": "weights of the network in rotated coordinates: int8 in [-127, 127], a float32 scale "
    "of 14 bits per row; biases and positions int32 in units of 2**-12",
}


def write_integers(
    source: Source,
    windows: Sequence[Window],
    path: Path,
    metadata: Mapping[str, str],
    advance: Callable[[int], object],
) -> list[TensorError]:
    """Write the weights for precision int8, rounded for the windows, or to the nearest without any.

    ``advance`` is told of the bytes that the weights of the source would take as float32. Raises
    ModelError and OutputError.
    """
    specification = integer_specification(source.dims)
    outputs = [
        OutputTensor(name, SAFETENSORS_NAMES[dtype], shape)
        for name, (shape, dtype) in specification.items()
    ]
    folding = Folding(_SourceRows(source), source.dims)
    meters = {
        output.name: ErrorMeter(output.name, output.shape, output.dtype)
        for output in outputs
        if output.dtype != "F32"
    }
    with writing_tensors(path, outputs, metadata) as writer:

        def give(rounded: Rounded) -> None:
            name, scale = rounded.name, rounded.scale
            writer.write(name, rounded.values)
            writer.write(scale_name(name), scale)
            restored = rounded.values.astype(np.float64) * scale[:, None]
            meters[name].add(rounded.matrix, restored, scale)
            meters[name].add_products(rounded.error, rounded.square)
            advance(4 * rounded.matrix.size)

        def give_fixed(name: str, array: F64) -> None:
            rounded = fixed_point(array)
            writer.write(name, rounded)
            step = 2.0**-FRACTION
            meters[name].add(array, rounded * step, np.full(len(array), step))

        if windows:
            round_calibrated(folding, source.dims, windows, give)
        else:
            for name in folding.products:
                round_to_nearest(folding, name, give)
        for name, product in folding.products.items():
            if product.has_bias:
                give_fixed(bias_name(name), folding.bias(name))
        for name in (ENCODER_POSITIONS, DECODER_POSITIONS):
            give_fixed(name, folding.positions(name))
    return [meter.result() for meter in meters.values()]


class _SourceRows:
    """Gives rows of a source's tensors. The matrix that was read last is kept."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._kept: tuple[str, F32] | None = None

    def __call__(self, name: str, part: slice | None) -> F32:
        if self._kept is not None and self._kept[0] == name:
            whole = self._kept[1]
        else:
            whole = self._read(name)
            # Vectors are read between the parts of a matrix.
            if whole.ndim > 1:
                self._kept = name, whole
        return whole if part is None else whole[part]

    def _read(self, name: str) -> F32:
        whole = np.empty(self._source.shapes[name], np.float32)
        first = 0
        for block in self._source.blocks(name):
            whole[first : first + len(block)] = block
            first += len(block)
        if not is_finite(whole):
            raise ModelError(f"{self._source.path}: tensor {name} holds NaN or infinity")
        return whole
