"""Mel kernels in fixed point: 400 samples of int16 to 80 bands of int8 in [0, 127].

All have a symmetric Hann window of 400 in Q15, zeros up to 512 and a radix-2 FFT of 512 in Q15.
They differ in whether the FFT halves at every stage, in what is taken of the spectrum, in the bands
and in how their energies become 7 bits. None has a logarithm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from whisper_npu.ops.arrays import I8, I64

from .integers import (
    divide_toward_zero,
    square_root,
    wrap_int16,
    wrap_int32,
)

SAMPLES, N_FFT, BINS, BANDS = 400, 512, 256, 80
_STAGES = 9
_Q15 = 32767
_SAMPLE_RATE = 16000


def hann_window() -> I64:  # -> [400]
    """round(32767 * (1 - cos(2 pi n / 399)) / 2)."""
    n = np.arange(SAMPLES)
    return np.rint(_Q15 * 0.5 * (1 - np.cos(2 * np.pi * n / (SAMPLES - 1)))).astype(np.int64)


def twiddles() -> tuple[I64, I64]:  # -> [256], [256]
    """round(32767 * exp(-2 pi i k / 512)), real and imaginary."""
    angle = 2 * np.pi * np.arange(BINS) / N_FFT
    real, imaginary = np.rint(_Q15 * np.cos(angle)), np.rint(-_Q15 * np.sin(angle))
    return real.astype(np.int64), imaginary.astype(np.int64)


def band_edges(last_bin: int) -> I64:  # -> [82]
    """FFT bins of 82 points that are equally spaced on HTK's mel scale from 0 to 8 kHz."""
    top = 2595.0 * np.log10(1.0 + _SAMPLE_RATE / 2 / 700.0)
    hertz = 700.0 * (10.0 ** (np.linspace(0.0, top, BANDS + 2) / 2595.0) - 1.0)
    edges = np.floor((N_FFT + 1) * hertz / _SAMPLE_RATE).astype(np.int64)
    return np.clip(edges, 0, last_bin)


def unit_sum_bands() -> I64:  # -> [80, 256]
    """Triangles from edge to edge, each divided by its sum, in Q15 rounded. Band 2 is empty."""
    weights = np.zeros((BANDS, BINS + 1))
    edges = band_edges(BINS)
    for band, (left, centre, right) in enumerate(_triples(edges)):
        rising, falling = np.arange(left, centre), np.arange(centre, right)
        weights[band, rising] = (rising - left) / max(centre - left, 1)
        weights[band, falling] = (right - falling) / max(right - centre, 1)
        weights[band] /= weights[band].sum() or 1.0
    return np.rint(weights * _Q15).astype(np.int64)[:, :BINS]


def unit_peak_bands() -> I64:  # -> [80, 256]
    """Triangles of height 1, a bin early: 1 is reached before the centre, 0 before the right edge.

    In Q15, cut off.
    """
    weights = np.zeros((BANDS, BINS), np.int64)
    for band, (left, centre, right) in enumerate(_triples(band_edges(BINS - 1))):
        for bin_ in range(left, centre):
            weights[band, bin_] = int((bin_ - left + 1) / (centre - left) * _Q15)
        for bin_ in range(centre, right):
            weights[band, bin_] = int((1.0 - (bin_ - centre + 1) / (right - centre)) * _Q15)
    return weights


def _triples(edges: I64) -> Sequence[tuple[int, int, int]]:
    points = edges.tolist()
    return list(zip(points, points[1:], points[2:], strict=False))


def _bit_reversed() -> I64:  # -> [512]
    order = np.zeros(N_FFT, np.int64)
    for bit in range(_STAGES):
        order |= ((np.arange(N_FFT) >> bit) & 1) << (_STAGES - 1 - bit)
    return order


_WINDOW = hann_window()
_COS, _SIN = twiddles()
_ORDER = _bit_reversed()
_UNIT_SUM = unit_sum_bands()
_UNIT_PEAK = unit_peak_bands()
_LINEAR_EDGES = np.arange(BANDS + 1) * BINS // BANDS


def fixed_v1(frame: I8) -> I8:  # [..., 800] -> [..., 80]
    """The FFT wraps; magnitude as max + 0.4 min, averaged over 80 bands of equal width."""
    magnitude = np.abs(_magnitude(*_fft(_windowed(frame, rounded=True), halving=False)))
    energy = np.add.reduceat(magnitude, _LINEAR_EDGES[:-1], axis=-1)
    mean = energy // np.diff(_LINEAR_EDGES)
    return _to_int8(mean * 127 // _Q15)


def fixed_v2(frame: I8) -> I8:  # [..., 800] -> [..., 80]
    """The FFT halves at every stage; magnitude as max + 0.4 min, HTK bands of unit sum."""
    magnitude = _magnitude(*_fft(_windowed(frame, rounded=True), halving=True))
    energy = np.clip(_banded(magnitude, _UNIT_SUM), 0, _Q15)
    return _to_int8(energy * 127 // _Q15)


def fixed_v3(frame: I8) -> I8:  # [..., 800] -> [..., 80]
    """The FFT halves at every stage; power in full, HTK bands of unit sum, 127 / 4096 of it."""
    real, imaginary = _fft(_windowed(frame, rounded=True), halving=True)
    energy = _banded(wrap_int32(real * real + imaginary * imaginary), _UNIT_SUM)
    return _to_int8((np.maximum(energy, 0) * 127) >> 12)


def production_v1(frame: I8) -> I8:  # [..., 800] -> [..., 80]
    """As ``fixed_v3`` with power up to 32767 only and 127 / 80 of its square root."""
    real, imaginary = _fft(_windowed(frame, rounded=False), halving=True)
    power = wrap_int16(np.minimum(wrap_int32(real * real + imaginary * imaginary), _Q15))
    root = square_root(np.maximum(_banded(power, _UNIT_SUM), 0))
    return _to_int8(root * 127 // 80)


def optimized(frame: I8) -> I8:  # [..., 800] -> [..., 80]
    """The FFT wraps, and so does the int32 sum of a band: HTK bands of unit peak."""
    magnitude = _magnitude(*_fft(_windowed(frame, rounded=True), halving=False))
    total = wrap_int32(magnitude @ _UNIT_PEAK.T)
    energy = np.clip(wrap_int32(total + (1 << 14)) >> 15, -32768, 32767)
    return _to_int8(divide_toward_zero(energy * 127, _Q15))


def _windowed(frame: I8, rounded: bool) -> I64:  # [..., 800] -> [..., 512]
    samples = np.ascontiguousarray(frame).view("<i2").astype(np.int64)
    half = 1 << 14 if rounded else 0
    padded = np.zeros((*samples.shape[:-1], N_FFT), np.int64)
    padded[..., :SAMPLES] = wrap_int16((samples * _WINDOW + half) >> 15)
    return padded


def _fft(x: I64, halving: bool) -> tuple[I64, I64]:  # [..., 512] -> [..., 256], [..., 256]
    """Decimation in time. Products are rounded to Q15; every store wraps to int16."""
    real, imaginary = x[..., _ORDER], np.zeros_like(x)
    rest = x.shape[:-1]
    for stage in range(_STAGES):
        half = 1 << stage
        cos, sin = _COS[:: BINS // half], _SIN[:: BINS // half]
        re, im = (part.reshape(*rest, -1, 2, half) for part in (real, imaginary))
        odd_re, odd_im = re[..., 1, :], im[..., 1, :]
        t_re = wrap_int16((cos * odd_re - sin * odd_im + (1 << 14)) >> 15)
        t_im = wrap_int16((cos * odd_im + sin * odd_re + (1 << 14)) >> 15)
        real = _butterfly(re[..., 0, :], t_re, halving).reshape(x.shape)
        imaginary = _butterfly(im[..., 0, :], t_im, halving).reshape(x.shape)
    return real[..., :BINS], imaginary[..., :BINS]


def _butterfly(even: I64, odd: I64, halving: bool) -> I64:
    pair = np.stack((even + odd, even - odd), axis=-2)
    return wrap_int16((pair + 1) >> 1 if halving else pair)


def _magnitude(real: I64, imaginary: I64) -> I64:
    real, imaginary = wrap_int16(np.abs(real)), wrap_int16(np.abs(imaginary))
    larger, smaller = np.maximum(real, imaginary), np.minimum(real, imaginary)
    return wrap_int16(larger + ((13107 * smaller) >> 15))


def _banded(spectrum: I64, weights: I64) -> I64:  # [..., 256], [80, 256] -> [..., 80]
    """Every product is cut off to Q15 before it is added."""
    bands = [
        ((spectrum[..., used] * row[used]) >> 15).sum(axis=-1)
        for row in weights
        for used in [np.flatnonzero(row)]
    ]
    return np.stack(bands, axis=-1)


def _to_int8(x: I64) -> I8:
    return np.clip(x, 0, 127).astype(np.int8)
