"""Inputs for the verdicts: made, not recorded, so that they are the same everywhere.

Nothing here depends on a model or on an audio file. NumPy keeps the stream of ``RandomState``
unchanged for ever, which it does not promise of its newer generators.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from whisper_npu.ops.arrays import F32
from whisper_npu.ops.mel import SAMPLE_RATE

# A vowel of a low voice: centre, width (Hz) and weight of three formants.
_FORMANTS = ((600.0, 90.0, 1.0), (1200.0, 120.0, 0.5), (2500.0, 200.0, 0.2))
_SYLLABLES_PER_SECOND = 4.0
_PEAK = 0.3
_NOISE = 1e-3


@lru_cache(maxsize=1)
def audio() -> F32:  # -> [32000]
    """Two seconds at 16 kHz: a voice that glides from 110 to 150 Hz in syllables, over faint noise.

    On the grid of 16-bit samples, with its peak at 0.3.
    """
    time = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    pitch = 110.0 + 20.0 * time
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    voice = np.zeros_like(time)
    for harmonic in range(1, 53):
        hertz = harmonic * pitch
        gain = sum(w / (1 + ((hertz - f) / b) ** 2) for f, b, w in _FORMANTS)
        voice += (gain + 1e-3) / harmonic * np.sin(harmonic * phase)
    voice *= np.maximum(np.sin(2 * np.pi * _SYLLABLES_PER_SECOND * time), 0) ** 0.5
    voice *= _PEAK / np.abs(voice).max()
    voice += _NOISE * np.random.RandomState(0).standard_normal(len(time))
    return on_grid(voice)


def on_grid(samples: NDArray[np.floating]) -> F32:
    """Rounded to the values of 16-bit audio."""
    whole = np.clip(np.rint(samples * 32768), -32768, 32767)
    return np.asarray(whole / 32768, np.float32)


@lru_cache(maxsize=8)
def activations(rows: int, width: int, seed: int = 1) -> F32:  # -> [rows, width]
    """Normal in every channel; the channels' deviations vary by a factor of about e."""
    random = np.random.RandomState(seed)
    deviation = np.exp(0.5 * random.standard_normal(width))
    return np.asarray(random.standard_normal((rows, width)) * deviation, np.float32)


@lru_cache(maxsize=1)
def before_gelu() -> F32:  # -> [16, 2048]
    """Normal with mean -1.15 and deviation 1.5, as in the encoder of the built-in model."""
    random = np.random.RandomState(2)
    return np.asarray(random.standard_normal((16, 2048)) * 1.5 - 1.15, np.float32)


def weights(rows: int, width: int) -> F32:  # -> [rows, width]
    """Normal, with the deviation that keeps the variance of what they multiply."""
    random = np.random.RandomState(3)
    return np.asarray(random.standard_normal((rows, width)) * width**-0.5, np.float32)


def gain_and_bias(width: int) -> tuple[F32, F32]:  # -> [width], [width]
    """Of a layer norm: gains of about 1, as in the built-in model's encoder; biases of about 0."""
    random = np.random.RandomState(4)
    gain = np.exp(0.1 * random.standard_normal(width))
    bias = 0.1 * random.standard_normal(width)
    return np.asarray(gain, np.float32), np.asarray(bias, np.float32)
