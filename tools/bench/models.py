"""The benchmark's models and audio: real weights, in the formats of all runtimes, and real speech.

What every runtime is to decode for the same number of tokens has weights in which the end of text
never comes: see ``silence_ends``. What transcribes speech as a user would have it has the weights
as they are, under the names of ``REAL``.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from safetensors.numpy import save_file

from tests.support.formats.ctranslate2 import write_ctranslate2
from tests.support.formats.ggml import write_ggml
from tests.support.formats.seeded import SeededModel, load_seeded
from tests.support.formats.torch_pt import write_pt
from tests.support.real import data
from tests.support.real.speech import RATE, minutes
from whisper_npu.convert import convert
from whisper_npu.model.weight_shapes import TOKEN_EMBEDDING
from whisper_npu.ops.mel import mel_filters

WINDOWS = 8
RECORDING_MINUTES = 10
LANGUAGE = "en"
_WINDOW = 30 * RATE
# A folder of Hugging Face's layout.
FILES = ("config.json", "generation_config.json", "tokenizer.json")
# Real weights as users have them: by the names of registry.py.
REAL = {
    "real-ours": lambda name: data.converted(name, "int8"),
    "real-openai.pt": data.openai_pt,
    "real-ctranslate2": data.weights,
    "real-ggml-q8_0.bin": lambda name: data.ggml(name, "q8_0"),
}


def silence_ends(weights: Mapping[str, np.ndarray], generation: Mapping[str, Any]) -> None:
    """Let text never end: give the end of text and all timestamps the embedding of the start of a
    transcript, in place. That is never the likeliest token of a trained model."""
    rows = weights[TOKEN_EMBEDDING]
    start = rows[generation["decoder_start_token_id"]]
    rows[generation["eos_token_id"]] = start
    rows[generation["no_timestamps_token_id"] + 1 :] = start


def write_models(name: str, folder: Path) -> None:
    """One of ``data.MODELS`` in every format, under the names of ``registry.py``."""
    published = data.converted(name, "float16")
    found = load_seeded(published)
    weights = {key: weight.astype(np.float32) for key, weight in found.weights.items()}
    silence_ends(weights, found.generation)
    model = replace(found, weights=weights)
    _write_folder(model, published, folder / "ours-float32")
    write_pt(model, folder / "float32.pt")
    for dtype in ("f16", "q8_0"):
        write_ggml(model, folder / f"ggml-{dtype}.bin", dtype)
    for dtype in ("float32", "int8"):
        write_ctranslate2(model, folder / f"ctranslate2-{dtype}", dtype)
        shutil.copy(published / "tokenizer.json", folder / f"ctranslate2-{dtype}")
    convert(folder / "ours-float32", folder / "ours-int8", dtype="int8", progress=False)
    for link, made in REAL.items():
        (folder / link).symlink_to(made(name))


def _write_folder(model: SeededModel, published: Path, folder: Path) -> None:
    folder.mkdir()
    for file in FILES:
        shutil.copy(published / file, folder)
    save_file(model.weights, folder / "model.safetensors", metadata={"format": "pt"})


def write_recording(path: Path, length: float) -> None:
    """A wav file of so many minutes: English prompts, over and over."""
    samples = minutes(LANGUAGE, RECORDING_MINUTES).samples()
    integers = np.rint(samples * 32767).astype("<i2")
    left = round(60 * length * RATE)
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for piece in itertools.repeat(integers):
            file.write(piece[:left])
            left -= min(left, len(piece))
            if not left:
                return


def write_audio(folder: Path) -> None:
    """``windows.f32``, the features of the first of them, and ``recording.wav``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_recording(folder / "recording.wav", RECORDING_MINUTES)
    samples, _ = soundfile.read(folder / "recording.wav", WINDOWS * _WINDOW, dtype="float32")
    samples.astype("<f4").tofile(folder / "windows.f32")
    for n_mels in (80, 128):
        features = _log_mel(samples[:_WINDOW], n_mels)
        features.astype("<f4").tofile(folder / f"features-{n_mels}.f32")


def _log_mel(samples: np.ndarray, n_mels: int) -> np.ndarray:  # [480000] -> [n_mels, 3000]
    """Features of a window as the paper has them (OpenAI 2022), whoever computes the states."""
    padded = np.pad(samples.astype(np.float64), 200, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, 400)[::160][:3000]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = np.square(np.abs(np.fft.rfft(frames * hann)))
    log = np.log10(np.maximum(mel_filters(n_mels) @ power.T, 1e-10))
    return (np.maximum(log, log.max() - 8) + 4) / 4
