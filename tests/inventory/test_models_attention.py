from __future__ import annotations

import numpy as np
import pytest

from kernels.inventory.models import attention
from tests.inventory import c_models
from tests.inventory.launches import int8_inputs


def _flatter(qkv: np.ndarray) -> np.ndarray:
    """Scores near each other, so that many weights are not 0."""
    out = qkv.copy()
    out[: len(qkv) // 3] //= 32
    return out


def test_16x16_is_that_of_the_loops() -> None:
    inputs = int8_inputs(768)
    for qkv in [*inputs, *map(_flatter, inputs)]:
        wanted = c_models.attention(
            qkv.tolist(), 16, 4, c_models.softmax_parabola, nearest=False, rows=range(16)
        )
        assert attention.simple_16x16(qkv).tolist() == wanted


# Rows do not depend on each other, and the loops are slow.
ROWS = [0, 1, 31, 32, 63]

TILES = [
    (attention.tile_64x64, 4, c_models.softmax_pieces),
    (attention.tile_64x64_int32, 4, c_models.softmax_table),
]


@pytest.mark.parametrize(("model", "shift", "softmax"), TILES, ids=["int8", "int32"])
def test_64x64_is_that_of_the_loops(model, shift, softmax) -> None:  # type: ignore[no-untyped-def]
    first, *_, extremes, _sparse, small = int8_inputs(12288, random=1)
    for qkv in (first, _flatter(first), extremes, small):
        wanted = c_models.attention(qkv.tolist(), 64, shift, softmax, nearest=True, rows=ROWS)
        assert model(qkv).reshape(64, 64)[ROWS].ravel().tolist() == wanted


def test_multicore_is_four_tiles_with_a_shift_of_3() -> None:
    made = int8_inputs(12288, random=4)
    outputs = attention.multicore_64x64(*map(_flatter, made[:4]))
    assert len(outputs) == 4
    wanted = c_models.attention(
        _flatter(made[2]).tolist(), 64, 3, c_models.softmax_pieces, nearest=True, rows=ROWS
    )
    assert outputs[2].reshape(64, 64)[ROWS].ravel().tolist() == wanted
    assert all(output.shape == (4096,) for output in outputs)


def test_the_exponential_in_pieces_rises_again() -> None:
    x = np.array([0, -39, -40, -79, -80], np.int64)
    assert attention.exponential_pieces(x).tolist() == [256, 1, 157, 114, 1]


def test_small_negative_sums_become_minus_one() -> None:
    qkv = np.zeros(12288, np.int8)
    qkv[8192:] = -1
    # Equal weights of 2 (of 127): -2 * 64 = -128, and (-128 - 64) >> 7 is -2.
    assert set(attention.tile_64x64(qkv).tolist()) == {-2}
    qkv[8192:] = 0
    qkv[8192] = -1
    assert attention.tile_64x64(qkv)[0] == -1
