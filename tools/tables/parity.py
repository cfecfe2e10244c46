"""How far each of our tensors is from openai-whisper's, layer by layer.

Both sides run tiny.en's weights in float32 on real speech, each on its own chain of results. Errors
are largest differences relative to the largest value of the tensor. Needs openai-whisper.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tests.support.formats.seeded import load_seeded
from tests.support.real import data
from tests.support.real.speech import president
from tests.support.reference.adapter import reference_model
from tests.support.reference.capture import capture_layers
from tests.support.reference.layers import (
    N_PROMPT,
    N_STEPS,
    Difference,
    Inputs,
    Whole,
    differences,
)
from tools.markdown import markdown_table
from tools.tables.peers.real_inputs import inputs
from whisper_npu.backends.opening import numpy_model
from whisper_npu.model.checkpoint import load_checkpoint

MODEL = "tiny.en"


def measure(name: str) -> list[Difference]:
    """Compare every tensor of a model."""
    folder = data.converted(name, "float16")
    checkpoint = load_checkpoint(folder)
    given = inputs(name)
    text = np.array(given.prompt + given.text)[: N_PROMPT + N_STEPS]
    fed = Inputs(president().samples(), given.features[None], text[:N_PROMPT], text[N_PROMPT:])
    weights = load_seeded(folder).weights
    captured = capture_layers(reference_model(checkpoint.dims, weights), fed)
    reference = {key: Whole(array) for key, array in captured.items()}
    return differences(numpy_model(checkpoint), fed, reference)


def table(found: Sequence[Difference]) -> Iterator[str]:
    """A row for every layer, with the worst of its tensors."""
    layers: dict[tuple[str, str], list[Difference]] = {}
    for difference in found:
        phase, *step = difference.phase.split()
        _, *rest = difference.name.split(".")
        layer = f"layer {rest[0]}" if rest and rest[0].isdigit() else difference.name
        layers.setdefault((f"{phase}s" if step else phase, layer), []).append(difference)
    rows = []
    for (phase, layer), tensors in layers.items():
        worst = max(tensors, key=lambda difference: difference.error)
        where = f"{worst.phase}: {worst.name}" if phase.startswith("steps") else worst.name
        rows.append([phase, layer, str(len(tensors)), f"{worst.error:.1e}", where])
    yield from markdown_table(["phase", "layer", "tensors", "worst error", "where"], rows)


def lines() -> Iterator[str]:
    yield from table(measure(MODEL))
