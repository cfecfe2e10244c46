"""How far each of our tensors is from openai-whisper's, layer by layer.

Both sides run a seeded random checkpoint in float32, each on its own chain of results. Errors are
largest differences relative to the largest value of the tensor. Needs openai-whisper.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.support import synthetic_audio
from tests.support.checkpoints import Recipe, checkpoint
from tests.support.reference.adapter import reference_model
from tests.support.reference.capture import capture_layers
from tests.support.reference.layers import Difference, Whole, differences, seeded_inputs
from tools.markdown import markdown_table
from whisper_npu.backends.opening import numpy_model


def measure(recipe: Recipe) -> list[Difference]:
    """Compare every tensor of a checkpoint."""
    seeded = checkpoint(recipe)
    inputs = seeded_inputs(seeded.dims, synthetic_audio.recorded_speech(30, seed=1))
    captured = capture_layers(reference_model(seeded.dims, seeded.weights), inputs)
    reference = {key: Whole(array) for key, array in captured.items()}
    return differences(numpy_model(seeded), inputs, reference)


def table(found: Sequence[Difference]) -> Iterator[str]:
    """A row for every layer, with the worst of its tensors."""
    layers: dict[tuple[str, str], list[Difference]] = {}
    for difference in found:
        phase, *step = difference.phase.split()
        _, *rest = difference.name.split(".")
        layer = f"layer {rest[0]}" if rest and rest[0].isdigit() else difference.name
        layers.setdefault((f"{phase}s 1 to 20" if step else phase, layer), []).append(difference)
    rows = []
    for (phase, layer), tensors in layers.items():
        worst = max(tensors, key=lambda difference: difference.error)
        where = f"{worst.phase}: {worst.name}" if phase.startswith("steps") else worst.name
        rows.append([phase, layer, str(len(tensors)), f"{worst.error:.1e}", where])
    yield from markdown_table(["phase", "layer", "tensors", "worst error", "where"], rows)


def lines() -> Iterator[str]:
    yield from table(measure(Recipe("tiny")))
