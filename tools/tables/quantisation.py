"""How far INT8 takes each layer of seeded random weights from float32.

Three runs of the same input, each on its own chain of results: float32 weights; INT8 weights in
float32 (``--precision float32`` on an INT8 model); INT8 arithmetic (``--precision int8``). Errors
are root mean squares of the difference to the first, relative to those of the values, and the
largest difference relative to the largest value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from tests.support import synthetic_audio
from tests.support.checkpoints import Recipe, checkpoint
from tools.markdown import markdown_table
from tools.measuring import relative_errors
from whisper_npu.audio.features import compute_log_mel
from whisper_npu.backends.opening import numpy_model
from whisper_npu.model.checkpoint import Checkpoint
from whisper_npu.model.weight_shapes import is_quantizable
from whisper_npu.ops.quant import quantize_weight
from whisper_npu.runtime.model import Model

SIZES = ("tiny", "base")
N_STEPS = 20


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
    """A row for every layer, with the errors of the others."""
    titles = [f"{name}, {what}" for name in ("INT8 weights", "INT8") for what in ("rms", "largest")]
    rows = [
        [
            name,
            *(f"{error:.2e}" for other in others for error in relative_errors(other[name], value)),
        ]
        for name, value in plain.items()
    ]
    yield from markdown_table(["layer", *titles], rows)


def compare(recipe: Recipe) -> Iterator[str]:
    """The table of a seeded checkpoint."""
    plain = checkpoint(recipe)
    int8 = quantised(plain)
    models = [numpy_model(plain), numpy_model(int8), numpy_model(int8, "int8")]
    samples = synthetic_audio.recorded_speech(30, 1)
    with compute_log_mel([samples], plain.dims.n_mels, models[0].log_mel) as log_mel:
        features = log_mel.window(0)[None]
    tokens = np.random.default_rng(2).integers(0, 1000, 4 + N_STEPS)
    yield from table(*(layers(model, features, tokens) for model in models))


def lines() -> Iterator[str]:
    for size in SIZES:
        yield from (f"{size}:", "", *compare(Recipe(size, seed=1)), "")
