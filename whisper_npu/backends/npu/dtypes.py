"""The dtypes of contracts in NumPy.

NumPy does not have bfloat16, the upper half of a float32: uint16 stands for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_npu.ops.arrays import F32, U16

# A unit in the last place of a bfloat16, relative to the smallest number of its binade.
ULP = 2.0**-7

_DTYPES: Mapping[str, type[np.generic]] = {
    "int8": np.int8,
    "uint8": np.uint8,
    "int16": np.int16,
    "int32": np.int32,
    "bfloat16": np.uint16,
    "float16": np.float16,
    "float32": np.float32,
}


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """The NumPy dtype that holds a contract's dtype."""
    return np.dtype(_DTYPES[dtype])


def rounded(x: F32) -> U16:
    """To bfloat16: to nearest, ties to even; for numbers, not for NaN."""
    bits: NDArray[Any] = np.ascontiguousarray(x).view(np.uint32).astype(np.uint64)
    nearest: U16 = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return nearest
