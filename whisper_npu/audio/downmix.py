"""Mixing of the channels of a recording to one."""

from __future__ import annotations

from functools import cache

import numpy as np

from whisper_npu.audio.layouts import channel_names
from whisper_npu.ops.arrays import F32

_MINUS_3_DB = 0.5**0.5
# What FFmpeg's default mix to mono takes of each channel. Of others (LFE, most of those above the
# listener) it takes nothing.
_WEIGHTS = {
    "FC": 1.0,
    **dict.fromkeys(("FL", "FR", "FLC", "FRC", "TFL", "TFR"), _MINUS_3_DB),
    **dict.fromkeys(("BL", "BR", "BC", "SL", "SR"), 0.5),
}


def mix_to_mono(block: F32, layout: str | None) -> F32:  # [n, channels] -> [n]
    """The usual mix of 3 to 8 channels, FFmpeg's; the average of one, two, or more than 8.

    ``layout`` is as ``DecodedBlock`` has it.
    """
    weights = _mono_weights(layout, block.shape[1])
    if weights is None:
        return mean_of_channels(block)
    mono: F32 = np.einsum("nc,c->n", block, weights)
    return mono


@cache
def _mono_weights(layout: str | None, n: int) -> F32 | None:  # -> [n]
    """Weights that sum to 1, so that nothing can be louder than full scale; None for the mean."""
    names = channel_names(layout, n)
    if n < 3 or names is None:
        return None
    weights = np.array([_WEIGHTS.get(name, 0.0) for name in names])
    return None if not weights.any() else (weights / weights.sum()).astype(np.float32)


def mean_of_channels(block: F32) -> F32:  # [n, channels] -> [n]
    """The average of the channels. Ten times as fast as ``mean`` on so short an axis."""
    if block.shape[1] == 1:
        return block[:, 0]
    mono: F32 = np.einsum("nc->n", block)
    mono /= np.float32(block.shape[1])
    return mono
