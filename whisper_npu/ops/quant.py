"""Weights as int8 with a scale for each output channel, as model folders of version 1 hold them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whisper_npu.ops.arrays import F32, I8

LARGEST = np.float32(127)
# Below this a row counts as zero: 127 divided by anything much smaller is no float32.
_SMALLEST = np.float32(1e-30)


@dataclass(frozen=True)
class Quantized:
    """A weight as integers in [-127, 127] with one scale per row (output channel).

    ``values`` is int8 [n, ...], ``scale`` float32 [n]; the weight is ``values * scale``.
    """

    values: I8
    scale: F32

    def __getitem__(self, rows: slice) -> Quantized:
        return Quantized(self.values[rows], self.scale[rows])

    def dequantize(self) -> F32:
        """The weight as float32, of the shape of ``values``."""
        scale = self.scale.reshape(-1, *[1] * (self.values.ndim - 1))
        return np.multiply(self.values, scale, dtype=np.float32)


def quantize_weight(w: F32) -> Quantized:  # [n, ...] -> [n, ...], [n]
    """Quantise a weight by output channels: scale = max |w| / 127, values = rint(w * (127 / max
    |w|)), half to even.

    A row of zeros gets zeros. Raises ValueError if the weight holds NaN or infinity.
    """
    rows = w.reshape(w.shape[0], -1)
    largest = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    if not np.isfinite(largest).all():
        raise ValueError("holds NaN or infinity")
    inverse = np.zeros_like(largest)
    np.divide(LARGEST, largest, out=inverse, where=largest >= _SMALLEST)
    values = np.rint(rows * inverse[:, None]).astype(np.int8)
    return Quantized(values.reshape(w.shape), largest / LARGEST)
