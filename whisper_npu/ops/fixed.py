"""Fixed-point numbers of the integer network, and the rounding that all of its ops share.

Activations are int32: ``x`` stands for ``x * 2**-FRACTION``. Where a result is out of range it
saturates at plus or minus ``LARGEST``. Functions here and in the integer ops carry integers in
float64 where every intermediate number fits its 53 bits, so that nothing is rounded but where a
formula says so; comments give the widths.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from whisper_npu.ops.arrays import I32, I64

F64 = NDArray[np.float64]

# Fraction bits of activations, of normalised log-mel features, and of what attention gives.
FRACTION = 12
FEATURE_FRACTION = 13
ATTENTION_FRACTION = 16
# Where int32 saturates; symmetric, so that a magnitude is an int32 too.
LARGEST = 2**31 - 1


def saturate(x: F64, out: I32 | None = None) -> I32:  # [...] -> [...]
    """Whole numbers in float64 as int32, saturated; changes ``x``."""
    if out is None:
        out = np.empty(x.shape, np.int32)
    # Several times faster than np.clip for the few numbers of a token.
    np.minimum(x, LARGEST, out=x)
    np.maximum(x, -LARGEST, out=x)
    np.copyto(out, x, casting="unsafe")
    return out


def magnitude(x: I32 | F64) -> int:  # [...]
    """The largest magnitude of whole numbers."""
    return max(int(x.max()), -int(x.min()))


def bit_length(x: I64) -> I64:  # [...] -> [...]
    """Bits of numbers in [0, 2**62): 0 for 0, else floor(log2 x) + 1."""
    # With a 0 below its highest bit, float64 cannot round x up to the next power of two.
    length: I64 = np.frexp((x & ~(x >> 1)).astype(np.float64))[1].astype(np.int64)
    return length


def square_root(x: I64) -> I64:  # [...] -> [...]
    """``floor(sqrt x)`` of numbers in [0, 2**60)."""
    root = np.sqrt(x.astype(np.float64)).astype(np.int64)
    # x may have been rounded up to the next square. Rounded down, a square of up to 60 bits still
    # has a root that float64 rounds to the right one.
    root -= root * root > x
    return root
