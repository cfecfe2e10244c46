"""GELU by a table of 256 entries, one for each int8: both sides have the fixed scale 1/127."""

from __future__ import annotations

import math

import numpy as np

from whisper_npu.ops.arrays import I8

SCALE = 1 / 127


def table() -> I8:  # -> [256]
    """Entry x + 128 is round(127 g(x / 127)), g(x) = x/2 (1 + tanh(sqrt(2/pi) (x + .044715 x^3))).

    No value lies within 1e-3 of a tie, so that the table does not depend on the last bit of tanh.
    """
    x = np.arange(-128, 128) * SCALE
    g = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    entries: I8 = np.rint(g * 127).astype(np.int8)
    return entries


_TABLE = table()


def lookup(x: I8) -> I8:  # [..., n] -> [..., n]
    """The table at every element."""
    y: I8 = _TABLE[x.astype(np.int64) + 128]
    return y
