"""INT8 tiles: int32 sums over the K of the tile, shifted right by 7 (floor), clamped to int8."""

from __future__ import annotations

from whisper_npu.ops.arrays import I8

from .integers import clamp_int8, matmul

SHIFT = 7


def _tile(a: I8, b: I8, size: int) -> I8:  # [..., size * size] twice -> [..., size * size]
    a, b = (x.reshape(*x.shape[:-1], size, size) for x in (a, b))
    return clamp_int8(matmul(a, b) >> SHIFT).reshape(*a.shape[:-2], size * size)


def _packed(ab: I8, size: int) -> I8:
    return _tile(ab[..., : size * size], ab[..., size * size :], size)


def packed_16x16(ab: I8) -> I8:  # [..., 512] -> [..., 256]
    """A [16, 16] and B [16, 16] behind it, both row-major, to A @ B."""
    return _packed(ab, 16)


def packed_32x32(ab: I8) -> I8:  # [..., 2048] -> [..., 1024]
    """As ``packed_16x16`` with tiles of 32."""
    return _packed(ab, 32)


def packed_64x64(ab: I8) -> I8:  # [..., 8192] -> [..., 4096]
    """As ``packed_16x16`` with tiles of 64."""
    return _packed(ab, 64)


def separate_16x16(a: I8, b: I8) -> I8:  # [..., 256], [..., 256] -> [..., 256]
    """As ``packed_16x16`` with A and B in buffers of their own."""
    return _tile(a, b, 16)
