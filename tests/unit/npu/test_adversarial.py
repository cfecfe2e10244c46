"""Inputs for verification are what their names say."""

from __future__ import annotations

import numpy as np
import pytest

from whisper_npu.backends.npu.adversarial import FLOATS, INTEGERS
from whisper_npu.backends.npu.dtypes import rounded
from whisper_npu.ops.arrays import widen_bfloat16


@pytest.mark.parametrize("name", INTEGERS)
def test_integers(name: str) -> None:
    made = INTEGERS[name](np.random.default_rng(0), "int8", (64, 64))
    assert made.shape == (64, 64)
    assert made.dtype == np.int8
    values = set(np.unique(made).tolist())
    if name == "random":
        assert values == set(range(-128, 128))
    elif name == "extreme":
        assert values == {-128, 127}
    elif name == "sparse":
        assert 0 < np.count_nonzero(made) < 0.04 * made.size
    elif name == "structured":
        # No two columns of 256 values are equal, nor a matrix and its transpose.
        assert made[:4].reshape(-1).tolist() == [*range(128), *range(-128, 0)]
        assert not np.array_equal(made, made.T)
    else:
        assert 127 in values
        assert values - {127} <= set(range(-3, 4))


@pytest.mark.parametrize("name", FLOATS)
def test_floats(name: str) -> None:
    made = FLOATS[name](np.random.default_rng(0), (8, 512))
    assert made.shape == (8, 512)
    assert made.dtype == np.float32
    values = set(np.unique(made).tolist())
    if name == "random":
        assert len(values) > 4000
        assert 0.9 < made.std() < 1.1
    elif name == "extreme":
        assert values == {-(2.0**50), 2.0**50}
        assert np.isfinite((made * made).sum(dtype=np.float32))
    elif name == "sparse":
        assert 0 < np.count_nonzero(made) < 0.04 * made.size
    elif name == "structured":
        assert made[0, :256].tolist() == [i / 16 - 8 for i in range(256)]
        assert np.array_equal(widen_bfloat16(rounded(made)), made)
    elif name == "one sign":
        assert len(values) == 1
        assert values < {-1000.0, 1000.0}
    else:
        assert np.count_nonzero(made == 1000) > 40
        assert np.abs(made[made != 1000]).max() < 6


def test_the_same_kinds_of_both() -> None:
    assert list(INTEGERS) == list(FLOATS)
