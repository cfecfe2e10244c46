"""The level of frames: where it is low there is a pause, where it is steady no speech."""

from __future__ import annotations

import numpy as np

from whisper_npu.ops.arrays import F32, I16
from whisper_npu.ops.fixed import F64, FEATURE_FRACTION

# How far the loud frames of speech are above its quiet ones at least, in units of a window (40 dB).
# White noise has 1.7 dB, speech in noise of the same power 4 dB, clear speech 15 dB and more.
_RISE = 3 / 40
# Loud frames are a hundredth of a window or more, 0.3 s of 30; a quarter is quiet.
_LOUD, _QUIET = 99, 25


# Fraction bits of the levels of integer features.
_FRACTION = 20


def levels(frames: F32 | I16) -> F32 | F64:  # [n_mels, n] -> [n]
    """The mean of each frame over all mel bands.

    That of integers is rounded so that sums of levels are exact: the same in any order.
    """
    if frames.dtype == np.int16:
        sums = frames.sum(axis=0, dtype=np.int64)
        rounded: F64 = np.rint(sums * 2.0 ** (_FRACTION - FEATURE_FRACTION) / len(frames))
        return rounded * 2.0**-_FRACTION
    means: F32 = frames.mean(axis=0)
    return means


def may_be_speech(frames: F32 | I16) -> bool:  # [n_mels, n]
    """Whether the level rises and falls as that of speech does."""
    quiet, loud = np.percentile(levels(frames), [_QUIET, _LOUD])
    return bool(loud - quiet >= _RISE)
