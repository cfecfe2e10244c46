"""What every runtime computes from the same features and tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_PROMPT = 4  # tokens of the prompt, which is one call of the decoder


@dataclass(frozen=True)
class Outputs:
    """``states`` [n_audio_ctx, n_audio_state]; ``logits`` [steps, n_vocab], float32: after the
    prompt, and after every token that follows it."""

    states: NDArray[np.float32]
    logits: NDArray[np.float32]
