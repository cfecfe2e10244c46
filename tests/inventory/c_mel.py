"""The mel kernels, one scalar at a time, with tables made without the NumPy models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tests.inventory.c_integers import clamp, divide, int8, int16, int32, newton_root

Values = Sequence[int]
Spectrum = list[tuple[int, int]]


def _nearest(x: float) -> int:
    """As Python rounds: half to even."""
    return round(x)


WINDOW = [_nearest(32767 * 0.5 * (1 - math.cos(2 * math.pi * n / 399))) for n in range(400)]
COS = [_nearest(32767 * math.cos(2 * math.pi * k / 512)) for k in range(256)]
SIN = [_nearest(-32767 * math.sin(2 * math.pi * k / 512)) for k in range(256)]


def samples(frame: Values) -> list[int]:
    return [int16((frame[2 * i] & 255) | (frame[2 * i + 1] << 8)) for i in range(400)]


def windowed(frame: Values, rounded: bool) -> list[int]:
    half = 16384 if rounded else 0
    pairs = zip(samples(frame), WINDOW, strict=True)
    return [int16((sample * weight + half) >> 15) for sample, weight in pairs] + [0] * 112


def fft(x: Values, halving: bool) -> Spectrum:
    data: Spectrum = [(0, 0)] * 512
    for i, value in enumerate(x):
        data[int(f"{i:09b}"[::-1], 2)] = (value, 0)
    size = 2
    while size <= 512:
        for start in range(0, 512, size):
            for j in range(size // 2):
                cos, sin = COS[j * (512 // size)], SIN[j * (512 // size)]
                (er, ei), (orr, oi) = data[start + j], data[start + j + size // 2]
                tr = int16((int32(cos * orr - sin * oi) + 16384) >> 15)
                ti = int16((int32(cos * oi + sin * orr) + 16384) >> 15)
                four = (er + tr, ei + ti, er - tr, ei - ti)
                a, b, c, d = (int16((v + 1) >> 1) if halving else int16(v) for v in four)
                data[start + j], data[start + j + size // 2] = (a, b), (c, d)
        size *= 2
    return data[:256]


def magnitude(re: int, im: int) -> int:
    re, im = int16(abs(re)), int16(abs(im))
    return int16(max(re, im) + int16((13107 * min(re, im)) >> 15))


def edges(last: int) -> list[int]:
    top = 2595 * math.log10(1 + 8000 / 700)
    hertz = [700 * (10 ** (top * i / 81 / 2595) - 1) for i in range(82)]
    return [min(math.floor(513 * f / 16000), last) for f in hertz]


def unit_sum(band: int) -> dict[int, int]:
    left, centre, right = edges(256)[band : band + 3]
    weights: dict[int, float] = {}
    for j in range(left, centre):
        weights[j] = (j - left) / (centre - left)
    for j in range(centre, right):
        weights[j] = (right - j) / (right - centre)
    total = sum(weights.values())
    return {j: _nearest(w / total * 32767) for j, w in weights.items()} if total > 0 else {}


def unit_peak(band: int) -> list[tuple[int, int]]:
    left, centre, right = edges(255)[band : band + 3]
    rising = [(left + i, int((i + 1) / (centre - left) * 32767.0)) for i in range(centre - left)]
    falling = [
        (centre + i, int((1.0 - (i + 1) / (right - centre)) * 32767.0))
        for i in range(right - centre)
    ]
    return rising + falling


UNIT_SUM = [unit_sum(band) for band in range(80)]
UNIT_PEAK = [unit_peak(band) for band in range(80)]


def _unit_sum_energies(values: Values) -> list[int]:
    return [sum((values[j] * w) >> 15 for j, w in band.items()) for band in UNIT_SUM]


def fixed_v1(frame: Values) -> list[int]:
    mags = [magnitude(*c) for c in fft(windowed(frame, True), False)]
    out = []
    for band in range(80):
        start, end = band * 256 // 80, (band + 1) * 256 // 80
        mean = divide(sum(abs(mag) for mag in mags[start:end]), end - start)
        out.append(int8(clamp(divide(mean * 127, 32767), 0, 127)))
    return out


def fixed_v2(frame: Values) -> list[int]:
    mags = [magnitude(*c) for c in fft(windowed(frame, True), True)]
    clamped = [clamp(energy, 0, 32767) for energy in _unit_sum_energies(mags)]
    return [int8(divide(energy * 127, 32767)) for energy in clamped]


def fixed_v3(frame: Values) -> list[int]:
    power = [int32(re * re + im * im) for re, im in fft(windowed(frame, True), True)]
    energies = [max(energy, 0) for energy in _unit_sum_energies(power)]
    return [int8(clamp(int32((energy * 127) >> 12), 0, 127)) for energy in energies]


def production_v1(frame: Values) -> list[int]:
    power = [
        int16(min(int32(re * re + im * im), 32767)) for re, im in fft(windowed(frame, False), True)
    ]
    roots = [newton_root(max(energy, 0)) for energy in _unit_sum_energies(power)]
    return [int8(clamp(divide(root * 127, 80), 0, 127)) for root in roots]


def optimized(frame: Values) -> list[int]:
    mags = [magnitude(*c) for c in fft(windowed(frame, True), False)]
    out = []
    for band in UNIT_PEAK:
        energy = 0
        for j, weight in band:
            energy = int32(energy + mags[j] * weight)
        rounded = clamp(int32(energy + 16384) >> 15, -32768, 32767)
        out.append(int8(clamp(divide(rounded * 127, 32767), 0, 127)))
    return out


MODELS: dict[str, Callable[[Values], list[int]]] = {
    "mel.fixed_v1": fixed_v1,
    "mel.fixed_v2": fixed_v2,
    "mel.fixed_v3": fixed_v3,
    "mel.production_v1": production_v1,
    "mel.optimized": optimized,
}
