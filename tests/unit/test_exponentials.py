"""Exponentials of fixed-point logits in integers, over all there are, and what is made of them."""

from __future__ import annotations

import hashlib
import math
import random

import numpy as np
import pytest

from whisper_npu.ops.choice import (
    token_logprobs_int32,
    top_logprobs,
    top_logprobs_int32,
)
from whisper_npu.ops.exponentials import LOGPROB_STEP, exponentials, log_of_sum, weights_below

N_VOCAB = 51866
DISTANCES = np.arange(1 << 17)
EXACT = 2.0**32 * np.exp(-DISTANCES / 4096)


def fixed(x: np.ndarray) -> np.ndarray:
    """Logits at multiples of 2**-12."""
    return (np.rint(x * 4096) / 4096).astype(np.float32)


def log_softmax(logits: np.ndarray) -> np.ndarray:  # [n, n_vocab]
    wide = logits.astype(np.float64)
    below = wide - wide.max(axis=1, keepdims=True)
    return below - np.log(np.exp(below).sum(axis=1, keepdims=True))


def rows(n_vocab: int = N_VOCAB) -> dict[str, np.ndarray]:
    """Rows of logits of several kinds."""
    rng = np.random.default_rng(0)
    normal = fixed(rng.standard_normal(n_vocab) * 3)
    certain = normal.copy()
    certain[n_vocab // 3] = 40
    forbidden = np.where(rng.random(n_vocab) < 0.5, normal, -np.inf).astype(np.float32)
    one = np.full(n_vocab, -np.inf, np.float32)
    one[-1] = -2000
    extremes = fixed(rng.uniform(-2048, 2048, n_vocab))
    extremes[:2] = -2048 + 2**-12, 2048 - 2**-12
    return {
        "normal": normal,
        "certain": certain,
        "equal ones": np.round(normal),
        "all equal": np.full(n_vocab, -3.25, np.float32),
        "half forbidden": forbidden,
        "one allowed": one,
        "extremes": extremes,
    }


def test_every_exponential_is_within_its_bound() -> None:
    found = exponentials(DISTANCES).astype(np.float64)
    assert (abs(found - EXACT) <= 1.09e-5 * EXACT + 1).all()
    assert found[0] == 2**32 - 1
    assert found[90_852] == 1
    assert not found[90_853:].any()
    assert (np.diff(found) <= 0).all()


@pytest.mark.parametrize(("others", "bound"), [(1, 2.9e-6), (50, 6.5e-6), (N_VOCAB - 1, 1.25e-5)])
def test_no_distance_of_all_others_leads_the_sum_astray(others: int, bound: float) -> None:
    # The error of a sum is largest where all tokens have the distance of the largest error.
    found = 2**32 - 1 + others * exponentials(DISTANCES).astype(np.float64)
    errors = np.log(found / (2.0**32 + others * EXACT))
    assert 0.9 * bound < abs(errors).max() < bound


def test_the_logarithm_is_within_half_a_step() -> None:
    chance = random.Random(0)
    totals = [2**32 - 1, 2**32, 2**62, 2**63 - 1, N_VOCAB * (2**32 - 1)]
    totals += [int(2 ** chance.uniform(32, 48)) for _ in range(20_000)]
    errors = [log_of_sum(t) * LOGPROB_STEP - (math.log(t) - 32 * math.log(2)) for t in totals]
    assert max(map(abs, errors)) < LOGPROB_STEP / 2 + 2.2e-7
    assert log_of_sum(2**32 - 1) == log_of_sum(2**32) == 0


@pytest.mark.parametrize("largest", [-2047.75, -1.5, 0.0, 23.25, 2047.75])
def test_weights_are_those_of_the_integer_distances(largest: float) -> None:
    below = np.concatenate([DISTANCES / 4096, [1000, 4095, np.inf]])
    x = (np.float32(largest) - below).astype(np.float32)
    exact = np.float32(largest) - x.astype(np.float64) == below
    found = weights_below(x, np.float32(largest))
    assert exact.sum() > 4000
    assert np.array_equal(found[:-3][exact[:-3]], exponentials(DISTANCES)[exact[:-3]])
    assert not found[-3:].any()


@pytest.mark.parametrize("kind", rows())
def test_logprobs_are_those_of_a_log_softmax(kind: str) -> None:
    row = rows()[kind]
    found = token_logprobs_int32(row, np.arange(N_VOCAB)).astype(np.float64)
    expected = log_softmax(row[None])[0]
    allowed = np.isfinite(expected)
    assert np.array_equal(np.isfinite(found), allowed)
    found, expected = found[allowed], expected[allowed]
    assert (abs(found - expected) <= 1.5e-5 + 2.0**-24 * abs(expected)).all()
    near = found[found > -64]
    assert (near / LOGPROB_STEP % 1 == 0).all()


@pytest.mark.parametrize("n_vocab", [7, 700, N_VOCAB])
@pytest.mark.parametrize("k", [1, 6])
def test_the_tokens_are_those_of_floats(n_vocab: int, k: int) -> None:
    logits = np.stack([*rows(n_vocab).values()])
    # Of tokens, of logprobs.
    floats, integers = (
        (np.empty((len(logits), k), np.int64), np.empty((len(logits), k), np.float32))
        for _ in range(2)
    )
    top_logprobs(logits, *floats)
    top_logprobs_int32(logits, *integers)
    assert np.array_equal(integers[0], floats[0])
    assert np.allclose(integers[1], floats[1], rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_of_what_is_no_number_there_is_no_likeliest(value: float) -> None:
    logits = np.zeros((3, 700), np.float32)
    logits[0, 650] = value
    logits[1] = -np.inf
    logits[2, 5] = 1
    tokens, logprobs = np.empty((3, 4), np.int64), np.empty((3, 4), np.float32)
    top_logprobs_int32(logits, tokens, logprobs)
    assert tokens.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [5, 0, 1, 2]]
    assert np.isnan(logprobs[:2]).all()
    assert np.isfinite(logprobs[2]).all()


def test_results_are_the_same_on_every_machine() -> None:
    # Integers of a generator that NumPy promises to leave as it is: normal, in effect.
    raw = (
        np.random.Philox(key=5)
        .random_raw(4 * 20_000)
        .astype("<u8")
        .view(np.int8)
        .reshape(4, 20_000, 8)
    )
    logits = (raw.sum(axis=2, dtype=np.int32) * 61).astype(np.float32) / 4096
    logits[1, ::3] = -np.inf
    tokens, logprobs = np.empty((4, 6), np.int64), np.empty((4, 6), np.float32)
    top_logprobs_int32(logits, tokens, logprobs)
    found = hashlib.sha256(tokens.astype("<i8").tobytes() + logprobs.astype("<f4").tobytes())
    assert found.hexdigest() == ("fb3d76d84a8ca9ea41f63e5b310e38cd836f9df6efbb4267216b1d457c400212")
