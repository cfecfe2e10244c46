"""CTranslate2: encoder output and logits of forced tokens through its Python interface."""

from __future__ import annotations

from pathlib import Path

import ctranslate2
import numpy as np
from numpy.typing import NDArray

from peers.outputs import N_PROMPT, Outputs


def ctranslate2_outputs(
    folder: Path, features: NDArray[np.float32], tokens: list[int], compute_type: str
) -> Outputs:  # features [n_mels, 2 n_audio_ctx]
    """Raises ValueError if CTranslate2 would compute in another type on this machine."""
    model = ctranslate2.models.Whisper(
        str(folder), device="cpu", compute_type=compute_type, inter_threads=1, intra_threads=1
    )
    if model.compute_type != compute_type:
        raise ValueError(f"CTranslate2 computes in {model.compute_type}, not {compute_type}")
    states = model.encode(ctranslate2.StorageView.from_array(features[None]))
    logits = [
        model.generate(
            states,
            [tokens[:n]],
            beam_size=1,
            max_length=2 * (n + 1),
            return_logits_vocab=True,
            suppress_blank=False,
            suppress_tokens=[],
        )[0].logits[0][0]
        for n in range(N_PROMPT, len(tokens) + 1)
    ]
    return Outputs(np.array(states)[0], np.stack([np.array(row).reshape(-1) for row in logits]))
