"""The log-mel spectrum by our functions and by its formulas in float64, and signals for both."""

from __future__ import annotations

import numpy as np

from tests.support.signals import chirp, noise, tone
from whisper_npu.ops import mel, mel_int
from whisper_npu.ops.fixed import FEATURE_FRACTION
from whisper_npu.ops.mel_tables import mel_tables

SIZES = (80, 128)
SIGNALS = {
    "noise": noise(160000),
    "chirp": chirp(20.0),
    "tone": tone(5.0, frequency=440.3),
    "silence": np.zeros(16000, np.float32),
    "noise, silence, faint noise": np.concatenate(
        [noise(32000), np.zeros(32000, np.float32), noise(32000, 1, 1e-4)]
    ),
}


def log_mel(samples: np.ndarray, n_mels: int) -> np.ndarray:
    """As openai-whisper: 30 s of silence appended, centred frames, the clamp by the maximum."""
    padded = np.pad(np.pad(samples, (0, 480000)), 200, mode="reflect")
    n_frames = len(samples) // 160 + 3000
    power = mel.stft_power(padded[: 160 * (n_frames - 1) + 400])
    result = mel.mel_log10(power, mel.mel_filters(n_mels))
    return mel.normalise(result, float(result.max()))


def log_mel_in_integers(samples: np.ndarray, n_mels: int) -> np.ndarray:
    """What precision int8 has in their place, as the numbers that its integers stand for."""
    padded = np.pad(np.pad(samples, (0, 480000)), 200, mode="reflect")
    n_frames = len(samples) // 160 + 3000
    result = mel_int.log_mel_int16(padded[: 160 * (n_frames - 1) + 400], mel_tables(n_mels))
    return mel_int.normalise_int16(result, int(result.max())) * 2.0**-FEATURE_FRACTION


def log_mel_float64(samples: np.ndarray, n_mels: int) -> np.ndarray:
    """The same in float64, frame by frame and written out, but for the float32 window."""
    n_frames = len(samples) // 160 + 3000
    padded = np.pad(np.pad(samples.astype(np.float64), (0, 480000)), 200, mode="reflect")
    window = mel.hann_window().astype(np.float64)
    frames = np.stack([padded[160 * t : 160 * t + 400] * window for t in range(n_frames)])
    power = np.abs(np.fft.rfft(frames)) ** 2
    result = np.log10(np.maximum(power @ mel.mel_filters(n_mels).T.astype(np.float64), 1e-10)).T
    return (np.maximum(result, result.max() - 8.0) + 4.0) / 4.0
