"""How far INT8 takes each layer from float32.

    python tools/quantisation_table.py (--size tiny | --model DIR) [--audio FILE]

Three runs of the same input, each on its own chain of results: float32 weights; INT8 weights in
float32 (``--precision float32`` on an INT8 model); INT8 arithmetic (``--precision int8``). Errors
are root mean squares of the difference to the first, relative to those of the values, and the
largest difference relative to the largest value.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.support import synthetic_audio
from tests.support.checkpoints import KNOWN_DIMENSIONS, Recipe, checkpoint
from whisper_npu.audio import load_audio
from whisper_npu.audio.features import compute_log_mel
from whisper_npu.backends.opening import numpy_model
from whisper_npu.model.checkpoint import Checkpoint, load_checkpoint
from whisper_npu.model.weight_shapes import is_quantizable
from whisper_npu.ops.quant import Quantized, quantize_weight
from whisper_npu.runtime.model import Model

N_STEPS = 20


def as_float(loaded: Checkpoint) -> Checkpoint:
    """The checkpoint with every weight in float32."""
    weights = {
        name: weight.dequantize() if isinstance(weight, Quantized) else weight
        for name, weight in loaded.weights.items()
    }
    return replace(loaded, weights=weights)


def quantised(plain: Checkpoint) -> Checkpoint:
    """The checkpoint with INT8 weights."""
    weights = {
        name: quantize_weight(weight) if is_quantizable(name, weight.shape) else weight
        for name, weight in plain.weights.items()
    }
    return replace(plain, weights=weights)


def layers(model: Model, features: np.ndarray, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """The output of every layer, and the logits of a prompt and of the steps after it."""
    found: dict[str, np.ndarray] = {}

    def observe(name: str, array: np.ndarray) -> None:
        if name.endswith(".residual"):
            found[name] = array.copy()

    states = model.encode(features, observe)
    found["encoder output"] = states
    session = model.decoder(states)
    found["logits of a prompt"] = session.prefill(tokens[None, :4], range(4), observe).copy()
    steps = [session.step(tokens[i : i + 1]).copy() for i in range(4, len(tokens))]
    found[f"logits of {N_STEPS} steps"] = np.concatenate(steps)
    return found


def table(plain: Mapping[str, np.ndarray], *others: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Lines of text."""
    yield f"{'layer':<24}{'INT8 weights, float32':>28}{'INT8':>28}"
    yield f"{'':<24}{'rms':>14}{'largest':>14}{'rms':>14}{'largest':>14}"
    for name, value in plain.items():
        figures = ""
        for other in others:
            error = other[name] - value
            rms = np.sqrt(np.square(error).mean() / np.square(value).mean())
            figures += f"{rms:>14.2e}{np.abs(error).max() / np.abs(value).max():>14.2e}"
        yield f"{name:<24}{figures}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--size", choices=KNOWN_DIMENSIONS, help="random weights of this size")
    source.add_argument("--model", type=Path, help="a model folder")
    parser.add_argument("--audio", type=Path, help="a recording (default: a synthetic one)")
    args = parser.parse_args()
    loaded = load_checkpoint(args.model) if args.model else checkpoint(Recipe(args.size, seed=1))
    samples = load_audio(str(args.audio)) if args.audio else synthetic_audio.recorded_speech(30, 1)
    float32, int8 = as_float(loaded), loaded
    if not any(isinstance(weight, Quantized) for weight in loaded.weights.values()):
        int8 = quantised(float32)
    models = [numpy_model(float32), numpy_model(int8), numpy_model(int8, "int8")]
    with compute_log_mel([samples], loaded.dims.n_mels, models[0].log_mel) as log_mel:
        features = log_mel.window(0)[None]
    tokens = np.random.default_rng(2).integers(0, 1000, 4 + N_STEPS)
    print("\n".join(table(*(layers(model, features, tokens) for model in models))))


if __name__ == "__main__":
    main()
