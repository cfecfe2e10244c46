"""Weights as tiles: every element where the formula of kernels/src/README.md has it."""

from __future__ import annotations

import numpy as np
import pytest

from whisper_npu.backends.npu.packing import (
    GemmTile,
    pack_gemm_weights,
    unpack_gemm_weights,
)

TILE = GemmTile(64, 64, 64)


def test_element_is_where_the_layout_says() -> None:
    tile = GemmTile(4, 16, 24)
    w = np.arange(50 * 40).astype(np.int8).reshape(50, 40)
    packed = pack_gemm_weights(w, tile)
    assert packed.shape == (3, 3, 16 * 24)
    assert packed.flags.c_contiguous
    expected = np.zeros_like(packed)
    for n, k in np.ndindex(50, 40):
        inner, depth = n % 24, k % 16
        at = (inner // 8 * (16 // 8) + depth // 8) * 64 + depth % 8 * 8 + inner % 8
        expected[n // 24, k // 16, at] = w[n, k]
    assert np.array_equal(packed, expected)


@pytest.mark.parametrize(("n", "k"), [(64, 64), (1, 1), (65, 63), (384, 1536), (130, 240)])
def test_unpacking_gives_the_weights_back(n: int, k: int) -> None:
    w = np.random.default_rng(n).integers(-128, 128, (n, k), dtype=np.int8)
    packed = pack_gemm_weights(w, TILE)
    assert packed.dtype == np.int8
    assert np.count_nonzero(packed) == np.count_nonzero(w)
    assert np.array_equal(unpack_gemm_weights(packed, n, k, TILE), w)
