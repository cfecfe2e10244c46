"""Rotations by Hadamard matrices: against their definition, and value by value."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from whisper_npu.model import hadamard
from whisper_npu.model.dims import KNOWN_DIMENSIONS

WIDTHS = sorted({dims.n_audio_state for dims in KNOWN_DIMENSIONS.values()})


def matrix(d: int) -> NDArray[np.float64]:
    x = np.eye(d)[None].copy()
    hadamard.rotate(x)
    return x[0]


@pytest.mark.parametrize("d", [1, 2, 12, 20, 64, *WIDTHS])
def test_a_hadamard_matrix_has_entries_of_one_magnitude_and_a_first_row_of_ones(d: int) -> None:
    signs = np.rint(matrix(d) * math.sqrt(d))
    assert np.array_equal(np.abs(signs), np.ones((d, d)))
    assert np.array_equal(signs @ signs.T, d * np.eye(d))
    assert np.array_equal(signs[0], np.ones(d))


@pytest.mark.parametrize(("d", "pieces"), [(3, 3), (6, 3), (28, 7), (36, 9)])
def test_other_widths_are_rotated_in_pieces(d: int, pieces: int) -> None:
    size = d // pieces
    rotated = matrix(d)
    assert np.allclose(rotated @ rotated.T, np.eye(d), atol=1e-15)
    for piece in range(pieces):
        inside = slice(piece * size, (piece + 1) * size)
        assert np.allclose(np.abs(rotated[inside, inside]), 1 / math.sqrt(size), atol=1e-15)


@pytest.mark.parametrize("d", [1, 2, 6, 12, 28, 40, 384])
def test_centred_rotation_takes_the_mean_off_first(d: int) -> None:
    x = np.eye(d)[None].copy()
    hadamard.rotate_centred(x)
    assert np.allclose(x[0], matrix(d) @ (np.eye(d) - 1 / d), atol=1e-14)
    if hadamard.factors(d)[0] == 1:
        assert not x[0, 0].any()


def by_values(x: list[float]) -> list[float]:
    """The rotation of one vector, one addition of Python's floats after the other."""
    _, small, power = hadamard.factors(len(x))
    if small > 1:
        pieces = [x[i * power : (i + 1) * power] for i in range(small)]
        q, rows = small - 1, [[1] * small]
        squares = {i * i % q for i in range(1, q)}
        for i in range(q):
            rows.append([-1, *(1 if (i - j) % q in squares | {0} else -1 for j in range(q))])
        x = []
        for signs in rows:
            for place in range(power):
                value = signs[0] * pieces[0][place]
                for sign, piece in zip(signs[1:], pieces[1:], strict=True):
                    value = value + sign * piece[place]
                x.append(value)
    half = 1
    while half < power:
        for first in range(0, len(x), 2 * half):
            for i in range(first, first + half):
                x[i], x[i + half] = x[i] + x[i + half], x[i] - x[i + half]
        half *= 2
    return [value * (1 / math.sqrt(small * power)) for value in x]


@pytest.mark.parametrize("d", [6, 16, 24, 40])
def test_every_value_is_made_of_float64_additions_in_a_fixed_order(d: int) -> None:
    x = np.random.default_rng(d).standard_normal((2, d, 3))
    expected = [[by_values(list(x[b, :, m])) for m in range(3)] for b in range(2)]
    hadamard.rotate(x)
    assert x.transpose(0, 2, 1).tolist() == expected


def test_what_is_rotated_in_parts_is_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).standard_normal((1, 24, 70))
    whole = x.copy()
    hadamard.rotate_centred(whole)
    monkeypatch.setattr(hadamard, "_VALUES", 100)
    hadamard.rotate_centred(x)
    assert np.array_equal(x, whole)


@pytest.mark.parametrize("k", [1, 2, 3, 7, 12, 384])
def test_sums_fold_halves(k: int) -> None:
    x = np.random.default_rng(k).standard_normal((5, k))

    def folded(values: list[float]) -> float:
        if len(values) == 1:
            return values[0]
        half = len(values) // 2
        sums = [values[i] + values[half + i] for i in range(half)]
        if len(values) % 2:
            sums[0] += values[-1]
        return folded(sums)

    before = x.copy()
    assert hadamard.total(x).tolist() == [folded(list(row)) for row in x]
    assert np.array_equal(x, before)
