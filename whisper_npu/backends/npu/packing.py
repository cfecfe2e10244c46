"""Host layout of the weights of the tile kernels; kernels/src/README.md has it in words."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

I8 = NDArray[np.int8]

# Columns of the 8x8 blocks of b that AIE2's matrix unit takes.
_BLOCK_N = 8


class GemmTile(NamedTuple):
    """The tile of a GEMM kernel: [m, k] x [k, n] -> [m, n]."""

    m: int
    k: int
    n: int


def pack_gemm_weights(w: I8, tile: GemmTile) -> I8:  # [n, k] -> [n / tn, k / tk, tk * tn]
    """Weights as the b tiles of an INT8 GEMM kernel; n and k are padded with zeros to whole tiles.

    Tile [j, i] is for output channels from ``j * tn`` and inputs from ``i * tk``. In a tile,
    channel n of input k is at ``(n // 8 * tk + k) * 8 + n % 8``: 8x8 blocks, k before n inside,
    those of eight channels one after the other.
    """
    n, k = w.shape
    columns, depth = -(-n // tile.n), -(-k // tile.k)
    padded = np.zeros((columns * tile.n, depth * tile.k), np.int8)
    padded[:n, :k] = w
    blocks = padded.reshape(columns, tile.n // _BLOCK_N, _BLOCK_N, depth, tile.k)
    packed = blocks.transpose(0, 3, 1, 4, 2)  # [columns, depth, tn / 8, tk, 8]
    tiles: I8 = packed.reshape(columns, depth, tile.k * tile.n)
    return tiles


def unpack_gemm_weights(
    packed: I8, n: int, k: int, tile: GemmTile
) -> I8:  # [n / tn, k / tk, tk * tn] -> [n, k]
    """The weights that ``pack_gemm_weights`` packed."""
    columns, depth = packed.shape[:2]
    blocks = packed.reshape(columns, depth, tile.n // _BLOCK_N, tile.k, _BLOCK_N)
    padded = blocks.transpose(0, 2, 4, 1, 3).reshape(columns * tile.n, depth * tile.k)
    w: I8 = padded[:n, :k].copy()
    return w
