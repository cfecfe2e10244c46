"""The sums that prove a product: exact as Python's integers, and what errors they find."""

from __future__ import annotations

import numpy as np
import pytest

from whisper_npu.ops.arrays import I64
from whisper_npu.ops.checksums import (
    multipliers,
    sums_of_product,
    sums_of_rows,
    sums_of_weight,
)
from whisper_npu.ops.rows import LARGEST_INT16

LARGEST_VOCAB = 51866
# Rows, values and channels: one of each, beyond each block, the widest sums and the most channels.
SHAPES = [(1, 1, 1), (65, 40, 70), (3, 40, 2049), (2, 5120, 3), (1, 8, LARGEST_VOCAB)]


def modular(a: np.ndarray, b: np.ndarray) -> I64:
    """``a @ b`` by Python's integers, modulo 2**64 with a sign."""
    product = a.astype(object) @ b.astype(object)
    wrapped: I64 = ((product + 2**63) % 2**64 - 2**63).astype(np.int64)
    return wrapped


def vectors(n: int) -> np.ndarray:  # [n, 2]
    return np.stack([np.ones(n, np.int64), multipliers(n).astype(np.int64)], axis=1)


def numbers(seed: int, dtype: str, shape: tuple[int, ...], kind: str) -> np.ndarray:
    limits = np.iinfo(dtype)
    if kind == "random":
        rng = np.random.default_rng(seed)
        return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    return np.full(shape, getattr(limits, kind), dtype)


def test_multipliers_are_all_different() -> None:
    found = multipliers(LARGEST_VOCAB)
    assert found.dtype == np.uint32
    assert len(set(found.tolist())) == LARGEST_VOCAB
    assert np.array_equal(found[:10], multipliers(10))


@pytest.mark.parametrize("kind", ["random", "min", "max"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_sums_are_exact(shape: tuple[int, int, int], dtype: str, kind: str) -> None:
    m, k, n = shape
    x, w = numbers(0, dtype, (m, k), kind), numbers(1, "int8", (n, k), kind)
    if dtype == "int16":
        x = np.clip(x, -LARGEST_INT16, LARGEST_INT16)
    of_weight = sums_of_weight(w)
    assert np.array_equal(of_weight.T, modular(w.T, vectors(n)))
    assert np.array_equal(sums_of_rows(x, of_weight), modular(x, of_weight.T))
    c = numbers(2, "int32", (m, n), kind)
    assert np.array_equal(sums_of_product(c), modular(c, vectors(n)))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_right_product_is_proven(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    x, w = numbers(0, "int8", (m, k), "random"), numbers(1, "int8", (n, k), "random")
    c = (x.astype(np.int64) @ w.astype(np.int64).T).astype(np.int32)
    assert np.array_equal(sums_of_product(c), sums_of_rows(x, sums_of_weight(w)))


def test_a_weight_in_parts() -> None:
    w = numbers(1, "int8", (70, 40), "random")
    parts = [sums_of_weight(w[i : i + 32].astype(np.float32), i) for i in range(0, 70, 32)]
    assert np.array_equal(sum(parts), sums_of_weight(w))


def test_every_error_in_two_columns_is_found() -> None:
    """Those that cancel each other among them, and flipped bits."""
    rng = np.random.default_rng(0)
    c = rng.integers(-(2**26), 2**26, (1, 4096)).astype(np.int32)
    right = sums_of_product(c)
    for bit in range(32):
        for _ in range(20):
            one, other = rng.choice(c.shape[1], 2, replace=False)
            for errors in ((1, 0), (1, -1), (1, 1)):
                wrong = c.copy()
                for column, error in zip((one, other), errors, strict=True):
                    changed = (int(wrong[0, column]) + (error << bit) + 2**31) % 2**32 - 2**31
                    wrong[0, column] = changed
                assert not np.array_equal(sums_of_product(wrong), right), (bit, errors)
            flipped = c.copy()
            flipped[0, [one, other]] ^= np.array(1 << bit, np.uint32).view(np.int32)
            assert not np.array_equal(sums_of_product(flipped), right), bit


def test_the_plain_sum_alone_would_not_do() -> None:
    c = np.arange(64, dtype=np.int32)[None]
    swapped = c[:, ::-1].copy()
    plain, weighted = (sums_of_product(swapped) == sums_of_product(c))[0]
    assert (plain, weighted) == (True, False)
