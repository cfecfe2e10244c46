"""What every runtime computes from the same features and tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Outputs:
    """``states`` [n_audio_ctx, n_audio_state]; ``logits`` [steps, n_vocab], float32: after the
    prompt, and after every token that follows it."""

    states: NDArray[np.float32]
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class Inputs:
    """``features`` float32 [n_mels, 2 n_audio_ctx]; the decoder sees ``prompt`` in one call, then
    the tokens of ``text`` one by one."""

    features: NDArray[np.float32]
    prompt: list[int]
    text: list[int]
