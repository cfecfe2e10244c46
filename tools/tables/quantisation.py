"""How far INT8 takes each layer from float32, on real weights and speech.

Two runs of the same window, each on its own chain of results: float32 on NumPy, and int8, which has
the same bits on NumPy and on the CPU kernels. Both are fed the text that float32 chose. The
residual stream of int8 is turned back; it has no mean, and logits are less a constant in each row,
so that both are compared less their means. Errors are root mean squares of the difference, relative
to those of the values. "features changed" is the spread: how far int8 is from itself when features
are changed by 1e-4, less than a step of them. Needs the CPU kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from tests.support.real import data
from tools.integer_states import centred, last_norm, stream
from tools.integer_states import states as integer_states
from tools.markdown import markdown_table
from tools.measuring import relative_errors
from tools.tables.peers.outputs import Inputs
from tools.tables.peers.real_inputs import inputs, real_model
from whisper_npu.ops.arrays import F32
from whisper_npu.runtime.model import Model

PLAIN = ("float16", "float32", False)
INT8 = ("int8", "int8", True)


def layers(model: Model, given: Inputs, norm: tuple[F32, F32]) -> dict[str, np.ndarray]:
    """The output of every layer, of the decoder's for a prompt, and the logits of the text.

    ``norm`` are gain and bias of the float model's last norm in the encoder.
    """
    int8 = model.precision == "int8"
    found: dict[str, np.ndarray] = {}

    def observe(name: str, array: np.ndarray) -> None:
        if name.endswith(".residual"):
            found[name] = stream(array) if int8 else centred(array)

    states = model.encode(given.features[None], observe)
    if int8:
        found[f"encoder.{model.dims.n_audio_layer - 1}.residual"] = stream(states)
    found["encoder output"] = integer_states(states, *norm) if int8 else states
    session = model.decoder(states)
    rows = [session.prefill([given.prompt], [len(given.prompt) - 1], observe)[:, 0].copy()]
    rows += [session.step([token]).copy() for token in given.text]
    found["logits"] = centred(np.concatenate(rows))
    return found


def errors(plain: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The root mean square of each layer's error, relative to that of its values."""
    return {name: relative_errors(other[name], value)[0] for name, value in plain.items()}


def compare(name: str) -> dict[str, dict[str, float]]:
    """The errors of each mode of a model."""
    given = inputs(name)
    norm = last_norm(name)
    plain = layers(real_model(name, *PLAIN), given, norm)
    int8 = real_model(name, *INT8)
    found = layers(int8, given, norm)
    moved = replace(given, features=given.features + np.float32(1e-4))
    return {
        "int8": errors(plain, found),
        "int8, features changed": errors(found, layers(int8, moved, norm)),
    }


def table(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Iterator[str]:
    """A row for every layer that one of the models has; columns are modes of models."""
    columns = {f"{name}: {mode}": e for name, modes in found.items() for mode, e in modes.items()}
    layers = max(columns.values(), key=len)
    rows = [
        [
            layer,
            *(f"{column[layer]:.1e}" if layer in column else "-" for column in columns.values()),
        ]
        for layer in layers
    ]
    yield from markdown_table(["layer", *columns], rows)


def lines() -> Iterator[str]:
    yield from table({name: compare(name) for name in data.MODELS})
