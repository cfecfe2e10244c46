"""The residual stream of the integer network as the floats that it stands for, for comparisons."""

from __future__ import annotations

import numpy as np

from tests.support.real import data
from whisper_npu.model.checkpoint import load_checkpoint
from whisper_npu.model.hadamard import rotate
from whisper_npu.ops.arrays import F32, I32
from whisper_npu.ops.fixed import F64, FRACTION
from whisper_npu.ops.quant import Quantized


def last_norm(model: str) -> tuple[F32, F32]:  # -> [d], [d]
    """Gain and bias of the encoder's last norm, of one of ``data.MODELS`` as it was published."""
    weights = load_checkpoint(data.converted(model, "float16")).float_weights()
    gain, bias = (weights[f"model.encoder.layer_norm.{part}"] for part in ("weight", "bias"))
    assert not isinstance(gain, Quantized)
    assert not isinstance(bias, Quantized)
    return gain, bias


def centred(x: F32) -> F64:  # [..., n] -> [..., n]
    """Less the mean of each row: what a residual stream or logits are but for a constant."""
    wide = x.astype(np.float64)
    return wide - wide.mean(axis=-1, keepdims=True)


def stream(x: I32) -> F64:  # [..., d] -> [..., d]
    """Residual stream, turned back: that of the float model less the mean of each row."""
    rotation = np.eye(x.shape[-1])
    rotate(rotation[None])
    return (x * 2.0**-FRACTION) @ rotation


def states(x: I32, gain: F32, bias: F32) -> F64:  # [..., d], [d], [d] -> [..., d]
    """The encoder's output of the float model, with gain and bias of its last norm."""
    turned = stream(x)
    deviation = np.sqrt(np.square(turned).mean(axis=-1, keepdims=True) + 1e-5)
    return turned / deviation * gain + bias
