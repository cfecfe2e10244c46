from __future__ import annotations

import numpy as np
import pytest

from kernels.inventory.models import matmul
from tests.inventory.c_models import tile_product
from tests.inventory.launches import int8_inputs

PACKED = {16: matmul.packed_16x16, 32: matmul.packed_32x32}


@pytest.mark.parametrize("size", PACKED)
def test_every_bit_is_that_of_the_loops(size: int) -> None:
    for packed in int8_inputs(2 * size * size):
        a, b = packed[: size * size].tolist(), packed[size * size :].tolist()
        assert PACKED[size](packed).tolist() == tile_product(a, b, size)


def test_64_is_that_of_the_loops() -> None:
    packed = int8_inputs(2 * 64 * 64)[0]
    a, b = packed[:4096].tolist(), packed[4096:].tolist()
    assert matmul.packed_64x64(packed).tolist() == tile_product(a, b, 64)


def test_it_rounds_down_and_saturates() -> None:
    a, b = np.zeros(256, np.int8), np.zeros(256, np.int8)
    # C[0, 0] = -1, C[1, 0] = 127 * 16 * 127, C[2, 0] = -128 * 16 * 127, C[3, 0] = 127.
    a[0], a[16:32], a[32:48], a[48] = -1, 127, -128, 127
    b[0::16] = 127
    b[0] = 1
    c = matmul.separate_16x16(a, b).reshape(16, 16)
    assert c[:4, 0].tolist() == [-1, 127, -128, 0]


def test_separate_and_packed_agree() -> None:
    for packed in int8_inputs(512):
        separate = matmul.separate_16x16(packed[:256], packed[256:])
        assert np.array_equal(separate, matmul.packed_16x16(packed))


def test_leading_axes_are_launches() -> None:
    launches = np.stack(int8_inputs(512))[:6].reshape(2, 3, 512)
    together = matmul.packed_16x16(launches)
    assert together.shape == (2, 3, 256)
    for index in np.ndindex(2, 3):
        assert np.array_equal(together[index], matmul.packed_16x16(launches[index]))
