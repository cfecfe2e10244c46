"""The log-mel front end in integers: what ``mel`` computes, with the same bits on every machine.

Each frame of 400 samples is scaled by a power of two of its own, so that its integers have the same
width at any level, and results depend neither on other frames nor on how a file was cut. The
spectrum is exact products with two small matrices, as 400 = 16 * 25 and 16 and 25 have no common
factor (Good 1958, The interaction algorithm and practical Fourier analysis): sample
``(25 m + 16 n) mod 400`` adds ``x * exp(-2 pi i (k m / 16 + k n / 25))`` to bin ``k``, so that a
transform of 16 and one of 25 follow each other, without any factors between them.

Integers, and how wide they are without sign; all are carried in float64, which holds 53 bits:

========================================  ====  =============================================
samples of a frame                          22  the largest has 22 or is a power of two
window, cosines, sines                      22
windowed samples                            22  rounded
transform of 16                             25  half of 16 windowed samples; rounded, sums 47
transform of 25                             52  200 windowed samples; sums of two of them 53
real and imaginary part                     26  rounded by 26 bits: at most 200 * 2**18
power                                       52
filters                                     20
filtered power                              52  rounded by 20 bits; by Parseval's theorem
logarithm, with 22 fraction bits            30
log10, with 11 fraction bits                15  rounded, then limited to [-10, 12)
========================================  ====  =============================================

The widest products are of 32-bit integers with 64-bit sums: power comes in two halves of 26 bits.
Rounding is to the nearest, halves to even in the first four places and up in the last two.

Error. The logarithm is within 0.52 units (1.3e-4, of normalised features 6.4e-5) of that of the
filtered power. Filters err by 2**-20 of their largest weight. Roundings before them are noise some
150 dB below the loudest tone that a frame's largest sample allows: at 80 dB below, where the clamp
begins, it is lost in the unit.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from whisper_npu.ops.arrays import F32, I16, I32, I64
from whisper_npu.ops.fixed import F64, FEATURE_FRACTION
from whisper_npu.ops.mel import HOP_LENGTH, N_FFT

# N_FFT is a product of these two, which have no common factor.
SHORT, LONG = 16, 25
BINS = N_FFT // 2 + 1

# Fraction bits of the window and of cosines and sines.
WAVE_FRACTION = 22
# Bits of the largest number of each filter.
FILTER_BITS = 20
# Fraction bits of logarithms, and the logarithm of how many numbers from 1 to 2 there are.
LOG_FRACTION = 22
LOG_STEPS = 7

# Fraction bits of log10: features are a quarter of it.
LOG10_FRACTION = FEATURE_FRACTION - 2
ONE = 2**LOG10_FRACTION
# 1e-10, and below 1e12: what is added when features are normalised fits int16 then.
SILENCE, LOUDEST = -10 * ONE, 12 * ONE - 1

_SAMPLE_BITS = 22
# A frame whose samples are all below 2**-100 is silence anyway.
_LEAST_EXPONENT = -100
# Bits that are dropped of the spectrum.
_SPECTRUM_SHIFT = 26
# Power is multiplied in two halves.
_HALF = 2.0**26
# What the lowest bit of a filtered power stands for, in a frame of exponent 0 and a filter that was
# not shifted: real and imaginary parts have 2 * 22 + 0 - 26 = 18 fraction bits.
_POWER_EXPONENT = FILTER_BITS - 2 * (_SAMPLE_BITS + WAVE_FRACTION - _SPECTRUM_SHIFT)
# Bits of a mantissa that its logarithm is computed from, and those within a step of the table.
_MANTISSA = 20
_STEP = _MANTISSA - LOG_STEPS
_LOG_2 = 1262611  # log10(2) with LOG_FRACTION bits
_ROUNDED = LOG_FRACTION - LOG10_FRACTION
# In place of a filtered power of 0: below SILENCE in a frame of any exponent.
_NOTHING = 2.0**-400

# Frames, and filters, that are computed together.
_FRAMES = 256
_FILTERS = 16


class MelTables(NamedTuple):
    """What ``log_mel_int16`` computes with; ``mel_tables`` makes it.

    * ``window`` [400]: Hann's, periodic, with ``WAVE_FRACTION`` bits, in ``sample_order``;
    * ``short_waves`` [18, 16], ``long_waves`` [26, 25]: cosines of 0, 1, ... 8 or 12 periods, and
      then as many sines, with ``WAVE_FRACTION`` bits;
    * ``filters`` [n_mels, 201]: mel filters times ``2**shifts``, the largest of each in [2**19,
      2**20), or all 0 in a filter between two bins;
    * ``shifts`` [n_mels];
    * ``logarithms`` [129]: log10 of 1, 1 + 1 / 128, ..., 2 with ``LOG_FRACTION`` bits.
    """

    window: I32
    short_waves: I32
    long_waves: I32
    filters: I32
    shifts: I32
    logarithms: I32


def table_shapes(n_mels: int) -> dict[str, tuple[int, ...]]:
    """The shape of each table, in order, by the name that it has in graphs."""
    return {
        "mel.window": (N_FFT,),
        "mel.short_waves": (2 * (SHORT // 2 + 1), SHORT),
        "mel.long_waves": (2 * (LONG // 2 + 1), LONG),
        "mel.filters": (n_mels, BINS),
        "mel.shifts": (n_mels,),
        "mel.logarithms": (2**LOG_STEPS + 1,),
    }


@cache
def sample_order() -> I64:  # -> [25 * 16]
    """The samples of a frame as both transforms take them, [25, 16]: (25 m + 16 n) mod 400 at
    [n, m]."""
    return np.array([(LONG * m + SHORT * n) % N_FFT for n in range(LONG) for m in range(SHORT)])


def log_mel_int16(
    samples: F32, tables: MelTables, out: I16 | None = None
) -> I16:  # [160 (t - 1) + 400] -> [n_mels, t]
    """log10 of the mel spectrum of each frame, with ``LOG10_FRACTION`` bits.

    Numbers are in [SILENCE, LOUDEST]: not clamped to the largest yet. Samples are finite, and may
    be beyond 1.
    """
    frames = sliding_window_view(samples, N_FFT)[::HOP_LENGTH]
    if out is None:
        out = np.empty((len(tables.filters), len(frames)), np.int16)
    for start in range(0, len(frames), _FRAMES):
        part = frames[start : start + _FRAMES]
        exponents = frame_exponents(part)
        power = spectrum_power(windowed(part, exponents, tables), tables)
        sums = filtered(power, tables)
        out[:, start : start + _FRAMES] = log10_int16(sums, exponents, tables)
    return out


def frame_exponents(frames: F32) -> I32:  # [t, 400] -> [t]
    """The least e with abs(x) < 2**e for all samples of a frame, and at least -100."""
    peaks = np.maximum(frames.max(axis=1), -frames.min(axis=1))
    exponents: I32 = np.maximum(np.frexp(peaks)[1], _LEAST_EXPONENT)
    return exponents


def windowed(frames: F32, exponents: I32, tables: MelTables) -> F64:
    # [t, 400], [t] -> [25, 16, t]
    """Samples as integers of 22 bits, times the window, as integers of 22 bits."""
    # Exact but for rounding to an integer: float32 holds 24 bits.
    integers = frames * np.ldexp(np.float32(1), _SAMPLE_BITS - exponents)[:, None]
    np.rint(integers, out=integers)
    window = tables.window * 2.0**-WAVE_FRACTION
    products: F64 = integers.take(sample_order(), axis=1) * window
    np.rint(products, out=products)
    ordered: F64 = products.reshape(-1, LONG, SHORT).transpose(1, 2, 0)
    return ordered


def spectrum_power(x: F64, tables: MelTables) -> F64:  # [25, 16, t] -> [201, t]
    """Squared magnitudes of the transform of windowed samples, all in units of 2**36."""
    short = np.matmul(tables.short_waves * 2.0**-WAVE_FRACTION, x)
    np.rint(short, out=short)
    # Numbers of 52 bits of which 26 are behind the point.
    waves = tables.long_waves * 2.0**-_SPECTRUM_SHIFT
    both = np.matmul(waves, short.transpose(1, 0, 2))
    cosines, sines = both[: SHORT // 2 + 1], both[SHORT // 2 + 1 :]
    short_bin, long_bin, sign = _bins()
    cos_cos, sin_cos = cosines[short_bin, long_bin], sines[short_bin, long_bin]
    long_bin = long_bin + LONG // 2 + 1
    cos_sin, sin_sin = cosines[short_bin, long_bin], sines[short_bin, long_bin]
    sin_sin *= sign
    cos_sin *= sign
    cos_cos -= sin_sin
    sin_cos += cos_sin
    real, imaginary = np.rint(cos_cos, out=cos_cos), np.rint(sin_cos, out=sin_cos)
    power: F64 = np.square(real, out=real)
    power += np.square(imaginary, out=imaginary)
    return power


@cache
def _bins() -> tuple[I64, I64, F64]:  # -> [201], [201], [201, 1]
    """Where bin k is in both transforms: as k1 periods of 16 and k2 of 25, and 1 where both turn
    the same way, else -1.

    A bin beyond the middle of a transform turns backwards: its sines are those of ``length - k``,
    negative. Where both do so, only the sign of the imaginary part is lost.
    """
    k = np.arange(BINS)
    short, long = k % SHORT, k % LONG
    backward = (short > SHORT // 2) != (long > LONG // 2)
    sign = np.where(backward, -1.0, 1.0)[:, None]
    return np.minimum(short, SHORT - short), np.minimum(long, LONG - long), sign


def filtered(power: F64, tables: MelTables) -> F64:  # [201, t] -> [n_mels, t]
    """``floor(sum / 2**20 + 1/2)`` of powers times filters.

    Sums have up to 72 bits: powers are multiplied in two halves, of which sums have 53 at most.
    """
    upper = np.floor(power / _HALF)
    lower = power - upper * _HALF
    filters = tables.filters.astype(np.float64)
    sums = np.empty((len(filters), power.shape[1]))
    for start in range(0, len(filters), _FILTERS):
        rows = filters[start : start + _FILTERS]
        # Neighbouring filters are zero but for a few bins.
        used = np.flatnonzero(rows.any(axis=0))
        bins = slice(used[0], used[-1] + 1) if used.size else slice(0)
        low, high = rows[:, bins] @ lower[bins], rows[:, bins] @ upper[bins]
        low = np.floor(low * 2.0**-FILTER_BITS + 0.5)
        sums[start : start + _FILTERS] = low + high * (_HALF * 2.0**-FILTER_BITS)
    return sums


def log10_int16(sums: F64, exponents: I32, tables: MelTables) -> I16:
    # [n_mels, t], [t] -> [n_mels, t]
    """log10 of filtered power in frames of such exponents, limited to [SILENCE, LOUDEST].

    The mantissa, of which 20 bits count, goes through a table of 128 steps, between which it is
    linear. 0 is below SILENCE.
    """
    # The bits of a float64 are those of an integer's logarithm and mantissa.
    bits = np.maximum(sums, _NOTHING).view(np.uint64) >> np.uint64(52 - _MANTISSA)
    number = bits.astype(np.int32)
    mantissa = number & (2**_MANTISSA - 1)
    step, rest = mantissa >> _STEP, mantissa & (2**_STEP - 1)
    table = tables.logarithms
    log10: I32 = np.diff(table)[step] * rest
    log10 >>= _STEP
    log10 += table[step]
    exponent = (number >> _MANTISSA) - 1023 + _POWER_EXPONENT
    log10 += (exponent + 2 * exponents - tables.shifts[:, None]) * np.int32(_LOG_2)
    # Rounded to the nearest, halves up.
    log10 += 1 << (_ROUNDED - 1)
    log10 >>= _ROUNDED
    return np.clip(log10, SILENCE, LOUDEST).astype(np.int16)


def normalise_int16(
    log_mel: I16, maximum: int, out: I16 | None = None
) -> I16:  # [...], scalar -> [...]
    """Clamp to 8 below ``maximum`` (that of the whole file) and map by (x + 4) / 4: with
    ``FEATURE_FRACTION`` bits that is adding 4. ``out`` may be ``log_mel``."""
    out = np.maximum(log_mel, np.int16(max(maximum - 8 * ONE, SILENCE)), out=out)
    out += np.int16(4 * ONE)
    return out
