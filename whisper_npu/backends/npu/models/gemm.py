"""Our INT8 GEMM, one tile: kernels/src/gemm_i8.cc after zero_i32."""

from __future__ import annotations

import numpy as np

from whisper_npu.backends.npu.models.tiles import gemm_i8_i32
from whisper_npu.backends.npu.packing import GemmTile
from whisper_npu.ops.arrays import I8, I32


def tile_64x64x64(a: I8, b: I8) -> I32:  # [..., 4096], [..., 4096] -> [..., 4096]
    """A [64, 64] row-major times a packed tile of B."""
    return _product(GemmTile(64, 64, 64), a, b)


def tile_16x64x64(a: I8, b: I8) -> I32:  # [..., 1024], [..., 4096] -> [..., 1024]
    """A [16, 64] row-major times a packed tile of B."""
    return _product(GemmTile(16, 64, 64), a, b)


def _product(tile: GemmTile, a: I8, b: I8) -> I32:
    out = np.zeros((*a.shape[:-1], tile.m * tile.n), np.int32)
    for index in np.ndindex(a.shape[:-1]):
        out[index] = gemm_i8_i32(tile, a[index], b[index], out[index])
    return out
