"""Frames of PyAV as blocks of samples."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_npu.audio.arrays import scale_to_float
from whisper_npu.audio.blocks import DecodedBlock

# PyAV reads beyond the array of a frame's planes if there are this many or more.
_UNSAFE_PLANES = 8


class Frames:
    """Turns frames into blocks."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._packer: Any = None
        self._packs: tuple[str, str, int] | None = None

    def block(self, frame: Any) -> DecodedBlock:
        """The samples of a frame. Raises FFmpegError, and ValueError for what PyAV cannot read."""
        rate, n = frame.sample_rate, frame.samples
        layout = frame.layout.name
        if frame.format.is_planar and frame.layout.nb_channels >= _UNSAFE_PLANES:
            frame = self._packed(frame)
        samples = scale_to_float(_array(frame), self._name)
        samples = samples.T if frame.format.is_planar else samples.reshape(n, -1)
        # FFmpeg's "3 channels" says no more than the number.
        return DecodedBlock(rate, samples, None if layout.endswith("channels") else layout)

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


def _array(frame: Any) -> NDArray[Any]:  # -> [channels, n], or [1, n * channels] if not planar
    with suppress(ValueError):
        array: NDArray[Any] = frame.to_ndarray()
        return array
    # 64-bit integers, which PyAV does not convert. A plane may have more room than samples.
    values = frame.samples * (1 if frame.format.is_planar else frame.layout.nb_channels)
    planes = [np.frombuffer(plane, np.int64, values) for plane in frame.planes]
    return np.array(planes) / 2.0**63
