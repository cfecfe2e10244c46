"""NumPy models of the tile kernels beside this file, equal to the bit.

They do the same operations in the same order. Arrays are flat, one tile or row each; leading axes
are separate calls. Each operation of the float kernels is one NumPy call on float32, which rounds
once. Which NaN comes out is not specified.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_npu.backends.npu.packing import I8, GemmTile, unpack_gemm_weights
from whisper_npu.ops.arrays import F32

I32 = NDArray[np.int32]

_LANES = 16
_f = np.float32

# Infinities and NaN pass through as they do in the kernels.
_quiet = np.errstate(over="ignore", invalid="ignore")


def gemm_i8_i32(
    tile: GemmTile, a: I8, b: I8, c: I32
) -> I32:  # [..., m * k], [k * n], [..., m * n] -> [..., m * n]
    """``c + a @ b``; b is one tile of ``pack_gemm_weights``."""
    w = unpack_gemm_weights(b.reshape(1, 1, -1), tile.n, tile.k, tile)
    rows = a.reshape(*a.shape[:-1], tile.m, tile.k).astype(np.int32)
    product: I32 = (rows @ w.T.astype(np.int32)).reshape(c.shape)
    return c + product


def tile_64x64x64(a: I8, b: I8) -> I32:  # [..., 4096], [..., 4096] -> [..., 4096]
    """A [64, 64] row-major times a packed tile of B: gemm_i8.cc after zero_i32."""
    return _product(GemmTile(64, 64, 64), a, b)


def tile_16x64x64(a: I8, b: I8) -> I32:  # [..., 1024], [..., 4096] -> [..., 1024]
    """A [16, 64] row-major times a packed tile of B: gemm_i8.cc after zero_i32."""
    return _product(GemmTile(16, 64, 64), a, b)


def _product(tile: GemmTile, a: I8, b: I8) -> I32:
    out = np.zeros((*a.shape[:-1], tile.m * tile.n), np.int32)
    for index in np.ndindex(a.shape[:-1]):
        out[index] = gemm_i8_i32(tile, a[index], b[index], out[index])
    return out


# By the names that kernels/registry.json gives.
MODELS: Mapping[str, Callable[..., Any]] = {
    "gemm.tile_64x64x64": tile_64x64x64,
    "gemm.tile_16x64x64": tile_16x64x64,
}


@_quiet
def gelu_f32(x: F32) -> F32:  # [..., n] -> [..., n]
    """``x / (1 + e^-t)`` with ``t = x g(x^2 / 4)`` and x no less than -6, in t no more than 6."""
    above = _choose(x < _f(-6), _f(-6), x)
    clamped = _choose(above > _f(6), _f(6), above)
    half = _f(0.5) * clamped
    s = half * half
    g = s * _f(1.47917273e-05) + _f(-2.73299658e-04)
    for coefficient in (
        2.03219026e-03,
        -7.07075287e-03,
        -1.06014788e-03,
        2.90674263e-01,
        1.59576843e00,
    ):
        g = g * s + _f(coefficient)
    return above * _reciprocal(_f(1) + _exponential(-(clamped * g)))


@_quiet
def layer_norm_f32(x: F32, gain: F32, bias: F32) -> F32:  # [..., n], [n], [n] -> [..., n]
    """``(x - mean) / sqrt(variance + 1e-5) * gain + bias``."""
    per_element = _f(1) / _f(x.shape[-1])
    mean = _lane_sum(x) * per_element
    centred = x - mean[..., None]
    variance = _lane_sum(centred * centred) * per_element
    scale = _reciprocal_sqrt(variance + _f(1e-5))
    result: F32 = (centred * scale[..., None]) * gain + bias
    return result


@_quiet
def softmax_f32(x: F32) -> F32:  # [..., n] -> [..., n]
    """``e^(x - max) / sum``, with 0 for what is more than 75 below the maximum."""
    below = x - x.max(axis=-1, keepdims=True)
    low = below < _f(-75)
    weights = _choose(low, _f(0), _exponential(_choose(low, _f(-75), below)))
    result: F32 = weights * _reciprocal(_lane_sum(weights))[..., None]
    return result


def _choose(condition: NDArray[np.bool_], yes: np.float32, no: F32) -> F32:
    chosen: F32 = np.where(condition, yes, no)
    return chosen


def _bits(x: F32) -> NDArray[np.uint32]:
    return x.view(np.uint32)


def _float(bits: NDArray[np.uint32]) -> F32:
    return bits.view(np.float32)


def _exponential(x: F32) -> F32:
    shifted = x * _f(1.44269504) + _f(12582912)
    n = shifted - _f(12582912)
    r = (x - n * _f(0.693359375)) - n * _f(-2.12194440e-4)
    p = r * _f(1.38145988e-3) + _f(8.36871658e-3)
    for coefficient in (4.16683890e-2, 1.66665211e-1, 4.99999940e-1):
        p = p * r + _f(coefficient)
    mantissa = (p * (r * r) + r) + _f(1)
    power = _float((_bits(shifted) << np.uint32(23)) + np.uint32(0x3F800000))
    result: F32 = mantissa * power
    return result


def _reciprocal(x: F32) -> F32:
    y = _float(np.uint32(0x7EF31200) - _bits(x))
    y = y * (_f(2) - x * y)
    y = y * (_f(2) - x * y)
    result: F32 = y + y * (_f(1) - x * y)
    return result


def _reciprocal_sqrt(x: F32) -> F32:
    half = _f(0.5) * x
    y = _float(np.uint32(0x5F375A86) - (_bits(x) >> np.uint32(1)))
    for _ in range(3):
        y = y * (_f(1.5) - (half * y) * y)
    return y


def _lane_sum(x: F32) -> F32:  # [..., n] -> [...]
    # The last block is filled up with zeros: adding 0 changes no sum that began at +0.
    blocks = -(-x.shape[-1] // _LANES)
    padded = np.zeros((*x.shape[:-1], blocks * _LANES), np.float32)
    padded[..., : x.shape[-1]] = x
    lanes: Any = np.zeros((*x.shape[:-1], _LANES), np.float32)
    for block in range(blocks):
        lanes = lanes + padded[..., block * _LANES : (block + 1) * _LANES]
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    total: F32 = lanes[..., 0]
    return total
