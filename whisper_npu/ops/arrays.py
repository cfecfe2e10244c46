"""Array types used in signatures, and the one that NumPy does not have."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]
I16 = NDArray[np.int16]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
# bfloat16: the upper half of a float32.
U16 = NDArray[np.uint16]


def widen_bfloat16(x: U16) -> F32:  # [...] -> [...]
    """The same numbers as float32."""
    bits = x.astype(np.uint32)
    bits <<= 16
    return bits.view(np.float32)
