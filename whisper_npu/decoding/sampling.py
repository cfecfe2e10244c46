"""Random choice of tokens that depends on what is decoded and on nothing else.

Each uniform number is a function of the seed, the window's position, the temperature, the step
and the sequence. So the result does not depend on the order in which windows are decoded, on the
windows decoded with them, or on the process.
"""

from __future__ import annotations

import hashlib
import struct

import numpy as np
from numpy.typing import NDArray

from whisper_npu.decoding.finite import require_numbers

F64 = NDArray[np.float64]


def sample_uniforms(seed: int, seek: int, temperature: float, n: int, step: int) -> F64:  # -> [n]
    """``n`` uniform numbers in [0, 1): number i is that of sequence i at ``step``.

    The generator is Philox, keyed by a hash of seed, seek and temperature and counted by step
    (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
    """
    packed = struct.pack("<Qqd", seed, seek, temperature)
    key = np.frombuffer(hashlib.blake2b(packed, digest_size=16).digest(), "<u8")
    # Raw output: NumPy promises that it stays the same from version to version.
    raw = np.random.Philox(key=key, counter=[0, step, 0, 0]).random_raw(n)
    uniforms: F64 = (raw >> np.uint64(11)) * 2.0**-53
    return uniforms


def sample_from(cumulative: F64, uniform: float) -> int:  # [n_vocab]
    """One token, by inverting the cumulative probabilities, which need not end at 1.

    It is the first at which they exceed ``uniform``, so a token of probability 0 is never taken.
    Raises ModelError for those of logits with a NaN or +infinity.
    """
    require_numbers(cumulative[-1])
    return int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
