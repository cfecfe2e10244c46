"""Whisper's log-mel features in torch, with the pieces that training varies as arguments."""

from __future__ import annotations

import numpy as np
import torch

RATE, N_FFT, HOP, N_MELS = 16000, 400, 160, 80


def mel_filters() -> np.ndarray:
    """Slaney's filter bank (librosa's default), (80, 201), as float32."""

    def to_hz(mels: np.ndarray) -> np.ndarray:
        linear = mels * 200.0 / 3
        return np.where(mels < 15, linear, 1000.0 * np.exp((mels - 15) * np.log(6.4) / 27))

    top = 15 + 27 * np.log(RATE / 2 / 1000) / np.log(6.4)
    points = to_hz(np.linspace(0, top, N_MELS + 2))
    bins = np.linspace(0, RATE / 2, N_FFT // 2 + 1)
    widths = np.diff(points)
    ramps = points[:, None] - bins[None, :]
    rising, falling = -ramps[:-2] / widths[:-1, None], ramps[2:] / widths[1:, None]
    weights = np.maximum(0, np.minimum(rising, falling))
    return (weights * (2 / (points[2:] - points[:-2]))[:, None]).astype(np.float32)


_FILTERS = torch.from_numpy(mel_filters())
_WINDOW = torch.hann_window(N_FFT)


def log10_mel(audio: torch.Tensor) -> torch.Tensor:
    """(batch, samples) to (batch, 80, samples / 160): log10 of the power, before the clamp."""
    spectrum = torch.stft(audio, N_FFT, HOP, window=_WINDOW, return_complex=True)[..., :-1]
    return (_FILTERS @ spectrum.abs().square()).clamp_(min=1e-10).log10_()


def normalise(log_mel: torch.Tensor, louder: torch.Tensor | float = 0.0) -> torch.Tensor:
    """Whisper's clamp and scale; `louder` stands for a file whose maximum lies elsewhere."""
    top = log_mel.amax(dim=(1, 2), keepdim=True) + louder
    return (torch.maximum(log_mel, top - 8.0) + 4.0) / 4.0
