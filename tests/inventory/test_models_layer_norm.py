from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.inventory.models import layer_norm
from tests.inventory.c_models import layer_norm as scalar_layer_norm
from tests.inventory.launches import int8_inputs


def test_256_is_that_of_the_loops() -> None:
    for packed in int8_inputs(768):
        x, gamma, beta = np.split(packed, 3)
        wanted = scalar_layer_norm(x.tolist(), gamma.tolist(), beta.tolist(), 1, 8)
        assert layer_norm.int8_256(packed).tolist() == wanted


def test_512_is_that_of_the_loops() -> None:
    for packed in int8_inputs(1536):
        parts = np.split(packed, 3)
        wanted = scalar_layer_norm(*(part.tolist() for part in parts), 128, 15)
        assert layer_norm.int8_512(*parts).tolist() == wanted


def test_the_mean_is_cut_off_toward_zero() -> None:
    # The mean is -255 / 256, which C makes 0: all deviations stay what they were.
    x = np.full(256, -1, np.int8)
    x[0] = 0
    packed = np.concatenate([x, np.full(256, 64, np.int8), np.zeros(256, np.int8)])
    # variance 0, q = 32768: -1 * 32768 >> 8 = -128, 64 * -128 >> 7 = -64.
    assert layer_norm.int8_256(packed).tolist() == [0] + [-64] * 255


def _bits(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    return (x.view(np.uint32) >> 16).astype(np.uint16)


def test_bfloat16_is_that_of_a_loop_in_float32() -> None:
    generator = np.random.RandomState(0)
    for scale in (1e-3, 1.0, 300.0):
        x = _bits((generator.standard_normal(512) * scale + scale).astype(np.float32))
        values = [np.float32(v) for v in (x.astype(np.uint32) << 16).view(np.float32)]
        total = np.float32(0)
        for value in values:
            total += value
        mean = total / np.float32(512)
        squares = np.float32(0)
        for value in values:
            squares += (value - mean) * (value - mean)
        variance = squares / np.float32(512) + np.uint32(0x3728 << 16).view(np.float32)
        guess = 0x5F3759DF - (int(variance.view(np.uint32)) >> 1)
        y = np.uint32(guess).view(np.float32)
        for _ in range(2):
            y = y * (np.float32(1.5) - np.float32(0.5) * variance * y * y)
        normal = np.array([(value - mean) * y for value in values], np.float32)
        below = _bits(normal)
        rest = normal.view(np.uint32) & 0xFFFF
        up = (rest > 0x8000) | ((rest == 0x8000) & (below % 2 == 1))
        assert layer_norm.bfloat16_512(x).tolist() == (below + up).tolist()


def test_bfloat16_of_a_constant_row_is_zero() -> None:
    row = np.full(512, 0x4049, np.uint16)
    assert not layer_norm.bfloat16_512(row).any()
