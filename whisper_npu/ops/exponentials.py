"""Exponentials of fixed-point logits, and the logarithm of their sum, in integers.

Logits are float32 numbers that are multiples of 2**-12, or minus infinity. A weight is
e ** (x - largest) in steps of 2**-32, computed from the distance u = (largest - x) * 2**12, an
integer:

    z = u * 23637 + (u >> 3)        u * log2(e) with 26 fraction bits
    weight = 2 ** -(z / 2**26)      a shift by the whole part; eight parabolas for the fraction

and zero from z = 32 on. Sums of weights are exact in int64, so that their order does not matter.
Products are of 16-bit integers, but for one of 17 by 15 bits and those of the logarithm, of which
a row has one. All tables have 224 bytes.

Error, over all distances: a weight is within 1.1e-5 of itself, and a step of 2**-32, of the
exponential. The logarithm of the sum over a row of 51,866 tokens is within 1.25e-5 of the exact
one, that of a row of few tokens within 6.5e-6, and another 1.9e-6 is for the steps of 2**-18.

To reduce an exponential to a shift and a small interval, and a logarithm to a small interval by a
table of inverses, is how all libraries do it (Muller, "Elementary Functions", 3rd edition, chapters
6 and 11). The coefficients are a minimax fit over the integers that 16-bit products take.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from whisper_npu.ops.arrays import F32, I64
from whisper_npu.ops.fixed import FRACTION

U32 = NDArray[np.uint32]

#: The step of log-probabilities.
LOGPROB_STEP = 2.0**-18
# Above this a weight is zero.
_FARTHEST = 90_853

# A weight of fraction f = piece / 8 + r / 2**18 is
# (value - (r * slope - (r * r >> 16) * bend >> 1)) / 2**32, r of 15 bits.
_VALUES = np.array(
    [
        4294967295, 3938506654, 3611622461, 3311869904,
        3037000522, 2784938983, 2553795662, 2341836274,
    ]
)  # fmt: skip
_SLOPES = np.array([22703, 20820, 19091, 17506, 16053, 14720, 13497, 12376])
_BENDS = np.array([1894, 1739, 1593, 1460, 1338, 1226, 1122, 1028])

# Where floats lie 2**-12 apart, and the bits of the first of them.
_LIFT = np.float32(2 ** (23 - FRACTION))
_LIFT_BITS = _LIFT.view(np.int32)

# Of the middle of each sixteenth between 1 and 2: its inverse with 16 fraction bits, and the
# logarithm of that inverse's own inverse with 30. Then ln 2.
_INVERSES = (
    63550, 59919, 56680, 53773, 51150, 48771, 46603, 44620,
    42799, 41121, 39569, 38130, 36792, 35545, 34380, 33288,
)  # fmt: skip
_LOGS = (
    33041841, 96213667, 155883900, 212416334, 266113079, 317251771, 366075839, 412765063,
    457505148, 500450309, 541760331, 581536678, 619891749, 656915367, 692697275, 727355544,
)  # fmt: skip
_LN2 = 744261118


def exponentials(distance: I64) -> U32:  # [...] -> [...]
    """``e ** -(distance / 2**12)`` in steps of 2**-32, for distances from 0 to 2**17 - 1."""
    z = distance * 23637 + (distance >> 3)
    piece, r = z >> 23 & 7, z >> 8 & 0x7FFF
    fall = r * _SLOPES[piece] - (r * r >> 16) * _BENDS[piece]
    weights: U32 = ((_VALUES[piece] - (fall >> 1)) >> (z >> 26)).astype(np.uint32)
    return weights


@cache
def _table() -> U32:
    """The exponentials of all distances up to one whose exponential is zero."""
    return exponentials(np.arange(_FARTHEST + 1))


def weights_below(x: F32, largest: F32 | np.float32) -> U32:  # [..., n], [..., 1] -> [..., n]
    """The weights of logits whose largest is given and finite.

    Where logits are no multiples of 2**-12, as after a division by a temperature, their distance is
    rounded to one; where the largest has a magnitude of 2**11 or more, to a multiple of its own
    step as a float.
    """
    # From 2**11 on floats lie 2**-12 apart: the low bits of their difference are the distance.
    distance = (largest + _LIFT) - x
    index = distance.view(np.int32)
    index -= _LIFT_BITS
    # What is farther away than the table reaches, and infinity, are beyond its end.
    weights: U32 = _table().take(index, mode="clip")
    return weights


def log_of_sum(total: int) -> int:
    """The natural logarithm of ``total / 2**32`` in steps of 2**-18, for a sum of weights below
    2**63. Within half a step and 2.2e-7."""
    length = total.bit_length()
    # A number from 1 to 2 with 31 fraction bits: near the middle of a sixteenth, times 1 + y.
    x = (total << 32) >> length
    piece = x >> 27 & 15
    y = (x * _INVERSES[piece] - (1 << 47)) >> 17
    square = y * y >> 30
    # ln(1 + y) = y - y^2 / 2 + y^3 / 3.
    log = (length - 33) * _LN2 + _LOGS[piece] + y - (square >> 1)
    log += ((square * y >> 30) * 21845) >> 16
    return (log + (1 << 11)) >> 12
