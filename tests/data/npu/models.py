"""Models of a kernel folder of tests: products of int8 tiles, shifted right by 7 and clamped."""

from __future__ import annotations

import numpy as np


def _packed(
    ab: np.ndarray, size: int
) -> np.ndarray:  # [..., 2 * size * size] -> [..., size * size]
    a, b = np.moveaxis(ab.reshape(*ab.shape[:-1], 2, size, size).astype(np.int64), -3, 0)
    return np.clip((a @ b) >> 7, -128, 127).astype(np.int8).reshape(*ab.shape[:-1], -1)


def packed_16x16(ab: np.ndarray) -> np.ndarray:  # [..., 512] -> [..., 256]
    return _packed(ab, 16)


def packed_32x32(ab: np.ndarray) -> np.ndarray:  # [..., 2048] -> [..., 1024]
    return _packed(ab, 32)


def packed_64x64(ab: np.ndarray) -> np.ndarray:  # [..., 8192] -> [..., 4096]
    return _packed(ab, 64)


MODELS = {f"matmul.{made.__name__}": made for made in (packed_16x16, packed_32x32, packed_64x64)}
