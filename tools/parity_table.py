"""Print how far each of our tensors is from openai-whisper's, layer by layer.

    python tools/parity_table.py --size tiny

Both sides run a seeded random checkpoint in float32, each on its own chain of results. Errors are
largest differences relative to the largest value of the tensor. Needs openai-whisper.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tests.support import synthetic_audio
from tests.support.checkpoints import SIZES, VOCABULARIES, Recipe, checkpoint
from tests.support.reference.adapter import reference_model
from tests.support.reference.capture import capture_layers
from tests.support.reference.layers import Difference, Whole, differences, seeded_inputs
from whisper_npu.backends.opening import numpy_model


def measure(recipe: Recipe) -> list[Difference]:
    """Compare every tensor of a checkpoint."""
    seeded = checkpoint(recipe)
    inputs = seeded_inputs(seeded.dims, synthetic_audio.recorded_speech(30, seed=1))
    captured = capture_layers(reference_model(seeded.dims, seeded.weights), inputs)
    reference = {key: Whole(array) for key, array in captured.items()}
    return differences(numpy_model(seeded), inputs, reference)


def table(found: Sequence[Difference]) -> list[str]:
    """Lines of text: a row for every layer, with the worst of its tensors."""
    rows: dict[tuple[str, str], list[Difference]] = {}
    for difference in found:
        phase, *step = difference.phase.split()
        _, *rest = difference.name.split(".")
        layer = f"layer {rest[0]}" if rest and rest[0].isdigit() else difference.name
        rows.setdefault((f"{phase}s 1 to 20" if step else phase, layer), []).append(difference)
    lines = [f"{'phase':<14}{'layer':<14}{'tensors':>8}{'worst error':>14}  where"]
    for (phase, layer), differences_ in rows.items():
        worst = max(differences_, key=lambda difference: difference.error)
        where = f"{worst.phase}: {worst.name}" if phase.startswith("steps") else worst.name
        lines.append(f"{phase:<14}{layer:<14}{len(differences_):>8}{worst.error:>14.1e}  {where}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Print errors against openai-whisper by layer.")
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--vocab", choices=VOCABULARIES, default="multilingual")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print("\n".join(table(measure(Recipe(args.size, args.vocab, args.seed)))))


if __name__ == "__main__":
    main()
