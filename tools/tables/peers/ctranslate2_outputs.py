"""CTranslate2: encoder output and logits of forced tokens through its Python interface."""

from __future__ import annotations

from pathlib import Path

import ctranslate2
import numpy as np

from tools.tables.peers.outputs import Inputs, Outputs


def ctranslate2_outputs(folder: Path, inputs: Inputs, compute_type: str) -> Outputs:
    """Raises ValueError if CTranslate2 computes in another type than asked for on this machine."""
    model = ctranslate2.models.Whisper(
        str(folder), device="cpu", compute_type=compute_type, inter_threads=1, intra_threads=1
    )
    if model.compute_type != compute_type:
        raise ValueError(f"CTranslate2 computes in {model.compute_type}, not {compute_type}")
    states = model.encode(ctranslate2.StorageView.from_array(inputs.features[None]))
    steps = len(inputs.text) + 1
    # Tokens after the control tokens of a prompt are forced, and counted as generated.
    (result,) = model.generate(
        states,
        [inputs.prompt + inputs.text],
        beam_size=1,
        max_length=2 * steps,  # it halves this
        return_logits_vocab=True,
        suppress_blank=False,
        suppress_tokens=[],
    )
    if len(result.logits[0]) != steps:
        raise ValueError(f"CTranslate2 gives {len(result.logits[0])} steps, not {steps}")
    rows = [np.array(row).reshape(-1) for row in result.logits[0]]
    return Outputs(np.array(states)[0], np.stack(rows))
