"""How far INT8 takes each layer from float32, on real weights and speech.

Runs of the same window, each on its own chain of results: float32 weights; INT8 weights in float32
(``--precision float32`` on an INT8 model); INT8 arithmetic (``--precision int8``) on NumPy and on
CPU kernels. All are fed the text that float32 chose. Errors are root mean squares of the difference
to the first, relative to those of the values. Needs the CPU kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from tests.support.real import data
from tools.markdown import markdown_table
from tools.measuring import relative_errors
from tools.tables.peers.outputs import Inputs
from tools.tables.peers.real_inputs import inputs, real_model
from whisper_npu.runtime.model import Model

PLAIN = ("float16", "float32", False)
MODES = {
    "INT8 weights": ("int8", "float32", False),
    "int8, NumPy": ("int8", "int8", False),
    "int8, kernels": ("int8", "int8", True),
}


def layers(model: Model, given: Inputs) -> dict[str, np.ndarray]:
    """The output of every layer, of the decoder's for a prompt, and the logits of the text."""
    found: dict[str, np.ndarray] = {}

    def observe(name: str, array: np.ndarray) -> None:
        if name.endswith(".residual"):
            found[name] = array.copy()

    states = model.encode(given.features[None], observe)
    found["encoder output"] = states
    session = model.decoder(states)
    rows = [session.prefill([given.prompt], [len(given.prompt) - 1], observe)[:, 0].copy()]
    rows += [session.step([token]).copy() for token in given.text]
    found["logits"] = np.concatenate(rows)
    return found


def errors(plain: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The root mean square of each layer's error, relative to that of its values."""
    return {name: relative_errors(other[name], value)[0] for name, value in plain.items()}


def compare(name: str) -> dict[str, dict[str, float]]:
    """The errors of each mode of a model."""
    given = inputs(name)
    plain = layers(real_model(name, *PLAIN), given)
    return {
        mode: errors(plain, layers(real_model(name, *how), given)) for mode, how in MODES.items()
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
