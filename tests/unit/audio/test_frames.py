"""Frames with many channels, beyond whose planes PyAV reads."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.signals import noise
from whisper_npu.audio.decoders.frames import Frames

av = pytest.importorskip("av")


@pytest.mark.parametrize("layout", ["mono", "5.1(side)", "7.0", "7.1", "hexadecagonal"])
@pytest.mark.parametrize("kind", ["fltp", "s16p", "flt"])
def test_channels(layout: str, kind: str) -> None:
    n = av.AudioLayout(layout).nb_channels
    frames = Frames("x")
    for seed in range(3):
        samples = noise(100 * n, seed).reshape(100, n)
        if kind == "s16p":
            samples = np.round(samples * 32767).astype(np.int16)
        packed = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples).reshape(1, -1), format=kind.rstrip("p"), layout=layout
        )
        packed.sample_rate = 8000
        (frame,) = av.AudioResampler(kind, layout, 8000).resample(packed)
        block = frames.block(frame)
        assert (block.rate, block.layout) == (8000, layout)
        expected = samples / np.float32(32768) if kind == "s16p" else samples
        np.testing.assert_array_equal(block.samples, expected)
