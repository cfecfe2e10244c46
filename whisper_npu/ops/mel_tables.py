"""Tables of the integer log-mel front end, in decimal arithmetic: the same on every machine.

Cosines come from one series and a recurrence, mel frequencies and logarithms from functions that
``decimal`` rounds correctly: no libm is asked. All are rounded to integers, halves to even.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context, Decimal, localcontext
from functools import cache

import numpy as np

from whisper_npu.ops.arrays import I32
from whisper_npu.ops.mel import N_FFT, SAMPLE_RATE
from whisper_npu.ops.mel_int import (
    BINS,
    FILTER_BITS,
    LOG_FRACTION,
    LOG_STEPS,
    LONG,
    SHORT,
    WAVE_FRACTION,
    MelTables,
    sample_order,
    table_shapes,
)

_DIGITS = 30
_PI = Decimal("3.1415926535897932384626433832795028841971693993751")


@cache
def mel_tables(n_mels: int) -> MelTables:
    """The tables for so many mels. Raises ValueError if ``n_mels`` is not positive."""
    if n_mels < 1:
        raise ValueError(f"n_mels must be positive, not {n_mels}")
    with localcontext(Context(prec=_DIGITS)):
        cosines = _cosines()
        hann = [(1 - cosine) / 2 for cosine in cosines]
        filters, shifts = _filters(n_mels)
        steps = 2**LOG_STEPS
        logarithms = [(1 + Decimal(i) / steps).log10() for i in range(steps + 1)]
        tables = MelTables(
            np.array([_fixed(hann[n], WAVE_FRACTION) for n in sample_order()], np.int32),
            _waves(cosines, SHORT),
            _waves(cosines, LONG),
            filters,
            np.array(shifts, np.int32),
            np.array([_fixed(x, LOG_FRACTION) for x in logarithms], np.int32),
        )
    for table in tables:
        table.setflags(write=False)
    return tables


def named_tables(n_mels: int) -> dict[str, I32]:
    """The tables by the names that they have in graphs."""
    return dict(zip(table_shapes(n_mels), mel_tables(n_mels), strict=True))


def _fixed(x: Decimal, fraction: int) -> int:
    return int((x * 2**fraction).to_integral_value())


def _cosines() -> Sequence[Decimal]:  # -> [400]
    """cos(2 pi n / 400) by cos((n + 1) a) = 2 cos(a) cos(n a) - cos((n - 1) a), which multiplies
    errors by n**2 at most."""
    square = (2 * _PI / N_FFT) ** 2
    term, first, i = Decimal(1), Decimal(1), 0
    while abs(term) > Decimal(10) ** -_DIGITS:
        i += 2
        term *= -square / (i * (i - 1))
        first += term
    cosines = [Decimal(1), first]
    while len(cosines) < N_FFT:
        cosines.append(2 * first * cosines[-1] - cosines[-2])
    return cosines


def _waves(cosines: Sequence[Decimal], length: int) -> I32:  # -> [2 (length // 2 + 1), length]
    step, quarter = N_FFT // length, N_FFT // 4
    phases = [[k * n * step for n in range(length)] for k in range(length // 2 + 1)]
    # cos(x - pi / 2) is sin x.
    phases += [[n - quarter for n in row] for row in phases]
    waves = [[_fixed(cosines[n % N_FFT], WAVE_FRACTION) for n in row] for row in phases]
    return np.array(waves, np.int32)


def _filters(n_mels: int) -> tuple[I32, list[int]]:  # -> [n_mels, 201], [n_mels]
    """The triangles of ``mel.mel_filters``, on Slaney's scale, each times a power of two."""
    step = Decimal("6.4").ln() / 27
    top = 15 + Decimal(8).ln() / step
    mels = [top * i / (n_mels + 1) for i in range(n_mels + 2)]
    edges = [m * 200 / 3 if m < 15 else 1000 * ((m - 15) * step).exp() for m in mels]
    width = Decimal(SAMPLE_RATE) / N_FFT
    filters, shifts = np.zeros((n_mels, BINS), np.int32), [0] * n_mels
    for index, (left, centre, right) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        height = 2 / (right - left)
        weights = {}
        for k in range(int(left / width) + 1, min(int(right / width), BINS - 1) + 1):
            rising = (k * width - left) / (centre - left)
            falling = (right - k * width) / (right - centre)
            weights[k] = height * min(rising, falling)
        largest = max(weights.values(), default=Decimal(0))
        if not largest:
            continue
        shift = shifts[index] = _shift(largest)
        for k, weight in weights.items():
            filters[index, k] = _fixed(weight, shift)
    return filters, shifts


def _shift(largest: Decimal) -> int:
    """The shift with which ``largest`` has ``FILTER_BITS`` bits, rounded."""
    shift = 0
    while _fixed(largest, shift) < 2 ** (FILTER_BITS - 1):
        shift += 1
    return shift
