"""Weights as the NumPy ops of a precision want them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from whisper_npu.errors import ModelError
from whisper_npu.model.builders import Precision
from whisper_npu.model.weights import TOKEN_EMBEDDING, is_quantizable, scale_name
from whisper_npu.ops.arrays import F32
from whisper_npu.ops.linear import conv_matrix
from whisper_npu.ops.quant import Quantized, quantize_weight
from whisper_npu.runtime.numpy_ops import Array
from whisper_npu.runtime.workers import spans, workers

_MATRICES = (".fc1.weight", TOKEN_EMBEDDING)
# Rows that are turned into columns at a time.
_ROWS = 256


def prepare_weights(
    weights: Mapping[str, F32 | Quantized], precision: Precision, as_integers: bool = False
) -> dict[str, Array]:
    """Weights by the names that graphs of this precision use; convolutions become matrices.

    ``float32`` dequantises int8 weights, once. ``int8`` quantises the weights of a floating-point
    model, and holds integers as float32, because BLAS multiplies nothing smaller, unless
    ``as_integers``: then NumPy widens them again whenever it multiplies. Wide matrices of the
    decoder lie column by column (see ``by_columns``). Raises ModelError for NaN or infinity in a
    weight that is to be quantised.
    """
    prepared: dict[str, Array] = {}
    for name, weight in weights.items():
        if precision == "int8" and is_quantizable(name, _shape(weight)):
            quantized = _quantized(name, weight)
            prepared[scale_name(name)] = quantized.scale
            values = quantized.values
            array: Array = values if as_integers else values.astype(np.float32)
        else:
            array = weight.dequantize() if isinstance(weight, Quantized) else weight
        if array.ndim == 3:
            array = conv_matrix(array)
        elif is_wide(name, array.shape) and array.dtype == np.float32:
            array = by_columns(array)
        prepared[name] = array
    return prepared


def is_wide(name: str, shape: Sequence[int]) -> bool:
    """Whether this is a matrix of the decoder, [n, k], with more outputs than inputs."""
    return name.startswith("model.decoder.") and name.endswith(_MATRICES) and shape[0] > shape[1]


def by_columns(w: F32) -> F32:  # [n, k] -> [n, k]
    """The same matrix with each column in one piece, as the transpose of a contiguous array.

    OpenBLAS multiplies one row with a wide weight that lies so at the speed of memory, and at half
    of it if its rows are in one piece.
    """
    columns = np.empty(w.shape[::-1], np.float32)
    blocks = spans(len(w), -(-len(w) // _ROWS))

    def turn(piece: int) -> None:
        # Few rows at a time: what is read and what is written stay in a second-level cache.
        columns[:, blocks[piece]] = w[blocks[piece]].T

    workers().run(turn, len(blocks))
    turned: F32 = columns.T
    return turned


def _quantized(name: str, weight: F32 | Quantized) -> Quantized:
    if isinstance(weight, Quantized):
        return weight
    try:
        return quantize_weight(weight)
    except ValueError as error:
        raise ModelError(f"tensor {name} {error}: it cannot be quantised") from None


def _shape(weight: F32 | Quantized) -> tuple[int, ...]:
    return weight.values.shape if isinstance(weight, Quantized) else weight.shape
