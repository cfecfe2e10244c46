"""CTranslate2: encoder output and logits of forced tokens through its Python interface."""

from __future__ import annotations

from pathlib import Path

import ctranslate2
import numpy as np

from peers.outputs import Inputs, Outputs


def ctranslate2_outputs(folder: Path, inputs: Inputs, compute_type: str) -> Outputs:
    """Raises ValueError if CTranslate2 computes in another type than asked for on this machine."""
    model = ctranslate2.models.Whisper(
        str(folder), device="cpu", compute_type=compute_type, inter_threads=1, intra_threads=1
    )
    if model.compute_type != compute_type:
        raise ValueError(f"CTranslate2 computes in {model.compute_type}, not {compute_type}")
    states = model.encode(ctranslate2.StorageView.from_array(inputs.features[None]))
    rows = []
    for n in range(len(inputs.text) + 1):
        tokens = inputs.prompt + inputs.text[:n]
        (result,) = model.generate(
            states,
            [tokens],
            beam_size=1,
            max_length=2,  # halved: one new token
            return_logits_vocab=True,
            suppress_blank=False,
            suppress_tokens=[],
        )
        rows.append(np.array(result.logits[0][0]).reshape(-1))
    return Outputs(np.array(states)[0], np.stack(rows))
