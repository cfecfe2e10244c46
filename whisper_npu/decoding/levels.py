"""The level of frames: where it is low there is a pause, where it is steady no speech."""

from __future__ import annotations

import numpy as np

from whisper_npu.ops.arrays import F32

# How far the loud frames of speech are above its quiet ones at least, in units of a window (40 dB).
# White noise has 1.7 dB, speech in noise of the same power 4 dB, clear speech 15 dB and more.
_RISE = 3 / 40
# Loud frames are a hundredth of a window or more, 0.3 s of 30; a quarter is quiet.
_LOUD, _QUIET = 99, 25


def levels(frames: F32) -> F32:  # [n_mels, n] -> [n]
    """The mean of each frame over all mel bands."""
    means: F32 = frames.mean(axis=0)
    return means


def may_be_speech(frames: F32) -> bool:  # [n_mels, n]
    """Whether the level rises and falls as that of speech does."""
    quiet, loud = np.percentile(levels(frames), [_QUIET, _LOUD])
    return bool(loud - quiet >= _RISE)
