"""Frames of PyAV as blocks of samples."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_npu.audio.arrays import scale_to_float
from whisper_npu.audio.blocks import DecodedBlock

# PyAV reads beyond the array of a frame's planes if there are this many or more.
_UNSAFE_PLANES = 8
# By FFmpeg's name of the format; planar ones have a "p" after it.
_DTYPES: dict[str, np.dtype[Any]] = {
    "u8": np.dtype(np.uint8),
    "s16": np.dtype(np.int16),
    "s32": np.dtype(np.int32),
    "s64": np.dtype(np.int64),
    "flt": np.dtype(np.float32),
    "dbl": np.dtype(np.float64),
}


class Frames:
    """Turns frames into blocks."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._packer: Any = None
        self._packs: tuple[str, str, int] | None = None

    def block(self, frame: Any) -> DecodedBlock:
        """The samples of a frame. Raises FFmpegError, and ValueError for what PyAV cannot read."""
        layout = frame.layout
        name, n_channels = layout.name, layout.nb_channels
        if frame.format.is_planar and n_channels >= _UNSAFE_PLANES:
            frame = self._packed(frame)
        samples = _samples(frame, n_channels)
        if samples.dtype != np.float32:
            samples = scale_to_float(samples, self._name)
        # FFmpeg's "3 channels" says no more than the number.
        known = None if name.endswith("channels") else name
        return DecodedBlock(frame.sample_rate, samples, known)

    def _packed(self, frame: Any) -> Any:
        """The same frame with its channels side by side."""
        import av

        kind = frame.format.name, frame.layout.name, frame.sample_rate
        if self._packs != kind:
            packed = frame.format.name.removesuffix("p")
            self._packer = av.AudioResampler(packed, frame.layout, frame.sample_rate)
            self._packs = kind
        (result,) = self._packer.resample(frame)
        if result.samples != frame.samples:
            raise ValueError("a frame of another length")
        return result


def _samples(frame: Any, n_channels: int) -> NDArray[Any]:  # -> [n, channels]
    """The samples in memory of their own, or of the frame; 64-bit integers as floats."""
    dtype = _DTYPES.get(frame.format.name.removesuffix("p"))
    if dtype is None:
        raise ValueError(f"samples of format {frame.format.name}")
    # A plane may have more room than samples.
    if n_channels == 1 or not frame.format.is_planar:
        flat: NDArray[Any] = np.frombuffer(frame.planes[0], dtype, frame.samples * n_channels)
        samples = flat.reshape(frame.samples, n_channels)
    else:
        planes = [np.frombuffer(plane, dtype, frame.samples) for plane in frame.planes]
        samples = np.stack(planes, axis=1)
    return samples / 2.0**63 if dtype == np.int64 else samples
