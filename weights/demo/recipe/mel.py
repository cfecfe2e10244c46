"""Whisper's log-mel features in torch, with the pieces that training varies as arguments."""

from __future__ import annotations

import torch
from torch import Tensor

from whisper_npu.ops.mel import HOP_LENGTH, N_FFT, mel_filters

N_MELS = 80
_FILTERS = torch.from_numpy(mel_filters(N_MELS))
_WINDOW = torch.hann_window(N_FFT)


def log10_mel(audio: Tensor) -> Tensor:
    """(batch, samples) to (batch, 80, samples / 160): log10 of the power, before the clamp."""
    spectrum = torch.stft(audio, N_FFT, HOP_LENGTH, window=_WINDOW, return_complex=True)[..., :-1]
    return (_FILTERS @ spectrum.abs().square()).clamp_(min=1e-10).log10_()


def normalise(log_mel: Tensor, louder: Tensor | float = 0.0) -> Tensor:
    """Whisper's clamp and scale; `louder` stands for a file whose maximum lies elsewhere."""
    top = log_mel.amax(dim=(1, 2), keepdim=True) + louder
    return (torch.maximum(log_mel, top - 8.0) + 4.0) / 4.0
