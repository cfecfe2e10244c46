"""Weights as the NumPy ops of a precision want them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from whisper_npu.errors import ModelError
from whisper_npu.model.builders import Precision
from whisper_npu.model.weights import is_quantizable, scale_name
from whisper_npu.ops.arrays import F32
from whisper_npu.ops.linear import conv_matrix
from whisper_npu.ops.quant import Quantized, quantize_weight


def prepare_weights(weights: Mapping[str, F32 | Quantized], precision: Precision) -> dict[str, F32]:
    """Weights by the names that graphs of this precision use; convolutions become matrices.

    ``float32`` dequantises int8 weights, once. ``int8`` quantises the weights of a floating-point
    model, and holds integers as float32, because BLAS multiplies nothing smaller. Raises
    ModelError for NaN or infinity in a weight that is to be quantised.
    """
    prepared: dict[str, F32] = {}
    for name, weight in weights.items():
        if precision == "int8" and is_quantizable(name, _shape(weight)):
            quantized = _quantized(name, weight)
            prepared[scale_name(name)] = quantized.scale
            array = quantized.values.astype(np.float32)
        else:
            array = weight.dequantize() if isinstance(weight, Quantized) else weight
        prepared[name] = conv_matrix(array) if array.ndim == 3 else array
    return prepared


def _quantized(name: str, weight: F32 | Quantized) -> Quantized:
    if isinstance(weight, Quantized):
        return weight
    try:
        return quantize_weight(weight)
    except ValueError as error:
        raise ModelError(f"tensor {name} {error}: it cannot be quantised") from None


def _shape(weight: F32 | Quantized) -> tuple[int, ...]:
    return weight.values.shape if isinstance(weight, Quantized) else weight.shape
