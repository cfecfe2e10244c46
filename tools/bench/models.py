"""Writing the benchmark's models and audio, in the formats of all runtimes.

    python -m tools.bench.models SIZE SEED TIKTOKEN MODELS AUDIO

The weights are those of ``tests.support.checkpoints``, with special tokens that never come: text
goes on until a runtime is told to stop, so that all of them decode the same number of tokens.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np

from tests.support import synthetic_audio
from tests.support.checkpoints import Recipe, write_checkpoint, write_weights
from tests.support.formats.ctranslate2 import write_ctranslate2
from tests.support.formats.ggml import write_ggml
from tests.support.formats.seeded import load_seeded
from tests.support.formats.torch_pt import write_pt
from whisper_npu.convert import convert
from whisper_npu.model.weight_shapes import TOKEN_EMBEDDING
from whisper_npu.ops.mel import mel_filters

WINDOWS = 8
RECORDING_MINUTES = 10
FINAL_BIAS = "model.decoder.layer_norm.bias"
# Subtracted from a special token's logit: several times as much as logits spread.
PENALTY = 100.0


def silence_special_tokens(weights: dict[str, np.ndarray], first_special: int) -> None:
    """Lower the logits of all special tokens, in place, by ``PENALTY`` on average."""
    bias = weights[FINAL_BIAS].astype(np.float64)
    # The output matrix reads the final norm's bias: a token's share of it is a constant.
    share = (bias * (PENALTY / np.square(bias).sum())).astype(np.float32)
    weights[TOKEN_EMBEDDING][first_special:] -= share


def write_models(recipe: Recipe, folder: Path) -> None:
    """Every format under the names of ``registry.py``."""
    full = folder / "ours-float32"
    write_checkpoint(recipe, full)
    weights = dict(recipe.weights())
    silence_special_tokens(weights, recipe.layout().end_of_text)
    write_weights(recipe.dimensions(), weights.items(), full)
    del weights
    seeded = load_seeded(full)
    write_pt(seeded, folder / "float32.pt")
    for dtype in ("f16", "q8_0"):
        write_ggml(seeded, folder / f"ggml-{dtype}.bin", dtype)
    for dtype in ("float32", "int8"):
        write_ctranslate2(seeded, folder / f"ctranslate2-{dtype}", dtype)
        shutil.copy(full / "tokenizer.json", folder / f"ctranslate2-{dtype}")
    convert(full, folder / "ours-int8", dtype="int8", progress=False)


def write_audio(folder: Path) -> None:
    """``windows.f32``, the features of the first of them, and ``recording.wav``."""
    folder.mkdir(parents=True, exist_ok=True)
    windows = np.stack([synthetic_audio.recorded_speech(30, seed) for seed in range(WINDOWS)])
    windows.astype("<f4").tofile(folder / "windows.f32")
    for n_mels in (80, 128):
        _log_mel(windows[0], n_mels).astype("<f4").tofile(folder / f"features-{n_mels}.f32")
    synthetic_audio.write_recording(folder / "recording.wav", RECORDING_MINUTES)


def _log_mel(samples: np.ndarray, n_mels: int) -> np.ndarray:  # [480000] -> [n_mels, 3000]
    """Features of a window as the paper has them (OpenAI 2022), whoever computes the states."""
    padded = np.pad(samples.astype(np.float64), 200, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, 400)[::160][:3000]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = np.square(np.abs(np.fft.rfft(frames * hann)))
    log = np.log10(np.maximum(mel_filters(n_mels) @ power.T, 1e-10))
    return (np.maximum(log, log.max() - 8) + 4) / 4


def main() -> None:
    size, seed, tiktoken, models, audio = sys.argv[1:]
    write_models(Recipe(size, "multilingual", int(seed), Path(tiktoken)), Path(models))
    write_audio(Path(audio))


if __name__ == "__main__":
    main()
