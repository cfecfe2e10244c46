"""Largest deviations of the normalised log-mel spectrum (values from about -1 to 2).

Ours in both precisions against the formulas in float64, openai-whisper's against ours.
Needs openai-whisper.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from whisper.audio import N_SAMPLES, log_mel_spectrogram

from tests.support.log_mel import (
    SIGNALS,
    SIZES,
    log_mel,
    log_mel_float64,
    log_mel_in_integers,
)
from tools.markdown import markdown_table
from tools.measuring import REPOSITORY
from whisper_npu.audio import load_audio

JFK = REPOSITORY / "samples" / "jfk.flac"


def lines() -> Iterator[str]:
    signals = {"speech (jfk)": load_audio(str(JFK)), **SIGNALS}
    ours = {(name, n): log_mel(signals[name], n) for name in signals for n in SIZES}

    def theirs(name: str, n_mels: int) -> float:
        spectrum = log_mel_spectrogram(signals[name], n_mels, padding=N_SAMPLES).numpy()
        return float(np.abs(spectrum - ours[name, n_mels]).max())

    def formula(name: str, n_mels: int) -> float:
        return float(np.abs(log_mel_float64(signals[name], n_mels) - ours[name, n_mels]).max())

    def integers(name: str, n_mels: int) -> float:
        found = log_mel_in_integers(signals[name], n_mels)
        return float(np.abs(log_mel_float64(signals[name], n_mels) - found).max())

    worst = [max(formula(name, n_mels) for name in signals) for n_mels in SIZES]
    rows = [["ours from the same formulas in float64, all signals", *(f"{e:.1e}" for e in worst)]]
    for name in signals:
        errors = [integers(name, n_mels) for n_mels in SIZES]
        rows.append([f"int8 from them: {name}", *(f"{e:.1e}" for e in errors)])
    for name in signals:
        what = f"openai-whisper from ours: {name}"
        rows.append([what, *(f"{theirs(name, n_mels):.1e}" for n_mels in SIZES)])
    yield from markdown_table(["", *(f"{n_mels} mels" for n_mels in SIZES)], rows)
