"""bfloat16, the upper half of a float32, which NumPy does not have: uint16 stands for it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_npu.ops.arrays import F32

U16 = NDArray[np.uint16]

# A unit in the last place, relative to the smallest number of its binade.
ULP = 2.0**-7


def widen(x: U16) -> F32:
    """The same numbers."""
    wide: F32 = (x.astype(np.uint32) << 16).view(np.float32)
    return wide


def rounded(x: F32) -> U16:
    """To nearest, ties to even; for numbers, not for NaN."""
    bits: NDArray[Any] = np.ascontiguousarray(x).view(np.uint32).astype(np.uint64)
    nearest: U16 = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return nearest
