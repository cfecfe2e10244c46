"""What conversions to INT8 are calibrated on: recordings that the package has, as windows.

They are synthetic speech (``speech/``, made by tools/calibration_speech.py) with the text that is
said in them, in five languages: a model is given those that it has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from whisper_npu.audio import load_audio
from whisper_npu.audio.features import compute_log_mel
from whisper_npu.errors import OptionError
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.ops.arrays import F32
from whisper_npu.ops.mel import mel_filters, mel_log10, stft_power
from whisper_npu.text.tokenizer import Tokenizer
from whisper_npu.version import __version__

SPEECH = Path(__file__).parent / "speech"
# What the metadata of a model says of them.
SHIPPED = f"{{}} recordings of synthetic speech of whisper-npu {__version__}"
# Seconds between two timestamps.
_TICK = 0.02


@dataclass(frozen=True)
class Window:
    """Features [n_mels, 2 n_audio_ctx] of a recording, and what a decoder reads with them: rows of
    tokens that it could have written."""

    features: F32
    sequences: tuple[tuple[int, ...], ...]


def shipped_windows(dims: ModelDimensions, tokenizer: Tokenizer) -> list[Window]:
    """The recordings whose language the model has; of none, those in English."""
    texts = json.loads((SPEECH / "texts.json").read_text(encoding="utf-8"))
    languages = {recording["language"] for recording in texts.values()}
    had = {language: _for_language(tokenizer, language) for language in sorted(languages)}
    if not any(had.values()):
        had["en"] = tokenizer
    windows, before = [], ""
    for name, recording in texts.items():
        of_language = had[recording["language"]]
        if of_language is not None:
            sequences = _sequences(dims, of_language, recording, before)
            windows.append(Window(_features(dims, name), sequences))
            before = _text(recording)
    return windows


def _for_language(tokenizer: Tokenizer, language: str) -> Tokenizer | None:
    try:
        return tokenizer.for_task(language, "transcribe")
    except OptionError:
        return None


def _text(recording: Mapping[str, Any]) -> str:
    return "".join(f" {text}" for _, _, text in recording["segments"])


def _sequences(
    dims: ModelDimensions, tokenizer: Tokenizer, recording: Mapping[str, Any], before: str
) -> tuple[tuple[int, ...], ...]:
    """The text by itself, and with timestamps after the text of another recording."""
    plain = [*tokenizer.sot_sequence_including_notimestamps, *tokenizer.encode(_text(recording))]
    prompt = tokenizer.encode(before)[-(dims.n_text_ctx // 2 - 1) :]
    timed = [tokenizer.sot_prev, *prompt, *tokenizer.sot_sequence]
    largest = dims.n_vocab - 1 - tokenizer.timestamp_begin
    for start, end, text in recording["segments"]:
        first, last = (
            tokenizer.timestamp_begin + min(round(time / _TICK), largest) for time in (start, end)
        )
        timed += [first, *tokenizer.encode(f" {text}"), last]
    sequences = ([*tokens, tokenizer.eot] for tokens in (plain, timed))
    return tuple(tuple(tokens[: dims.n_text_ctx]) for tokens in sequences)


def _features(dims: ModelDimensions, name: str) -> F32:  # -> [n_mels, n_frames]
    features = np.zeros((dims.n_mels, dims.n_frames), np.float32)
    window = _log_mel(name, dims.n_mels)[:, : dims.n_frames]
    features[:, : window.shape[1]] = window
    return features


# Several models may be converted by one process.
@lru_cache(maxsize=16)
def _log_mel(name: str, n_mels: int) -> F32:  # -> [n_mels, 3000]
    filters = mel_filters(n_mels)
    samples = load_audio(str(SPEECH / name))
    with compute_log_mel(
        [samples], n_mels, lambda part: mel_log10(stft_power(part), filters)
    ) as log_mel:
        return log_mel.window(0).astype(np.float32, copy=False)
