"""Sampling: uniforms that depend on their place alone, tokens by their probabilities."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from whisper_npu.decoding.sampling import sample_from, sample_uniforms
from whisper_npu.decoding.search import GreedySearch, Logits, Sampler
from whisper_npu.errors import ModelError
from whisper_npu.ops.probabilities import FLOATS, INTEGERS, Probabilities

both = pytest.mark.parametrize("probabilities", [FLOATS, INTEGERS], ids=["floats", "integers"])


def test_uniforms_do_not_change_from_version_to_version() -> None:
    # Also on another machine, process or NumPy: results with a seed are to be repeatable.
    assert sample_uniforms(0, 0, 0.2, 2, 0).tolist() == [0.11762337423115143, 0.24312196759965754]
    assert sample_uniforms(7, 3000, 1.0, 1, 41).tolist() == [0.23546746785309747]


def test_uniforms_are_the_same_in_another_process() -> None:
    code = (
        "from whisper_npu.decoding.sampling import sample_uniforms;"
        "print(sample_uniforms(3, 1200, 0.4, 3, 17).tolist())"
    )
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.strip() == str(sample_uniforms(3, 1200, 0.4, 3, 17).tolist())


def test_a_sequence_has_its_number_whatever_the_group() -> None:
    five = sample_uniforms(1, 2, 0.6, 5, 4)
    assert sample_uniforms(1, 2, 0.6, 3, 4).tolist() == five[:3].tolist()


def test_everything_counts() -> None:
    base = (0, 3000, 0.2, 1, 5)
    others = [
        (1, 3000, 0.2, 1, 5),
        (0, 3001, 0.2, 1, 5),
        (0, 3000, 0.4, 1, 5),
        (0, 3000, 0.2, 1, 6),
    ]
    values = {float(sample_uniforms(*key)[0]) for key in (base, *others)}
    assert len(values) == 5


def test_uniforms_are_uniform_and_independent() -> None:
    values = np.array([sample_uniforms(0, 0, 1.0, 5, step) for step in range(2000)])
    assert values.min() >= 0
    assert values.max() < 1
    # Ten bins of 1000 expected values: chi-square with 9 degrees of freedom, 99.9 %: 27.9.
    counts = np.histogram(values, bins=10, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 27.9
    # Correlations of 2000 pairs are within 4 / sqrt(2000) of 0.
    assert abs(np.corrcoef(values.T) - np.eye(5)).max() < 4 / np.sqrt(2000)
    assert abs(np.corrcoef(values[:-1, 0], values[1:, 0])[0, 1]) < 4 / np.sqrt(2000)


@both
def test_tokens_by_cumulative_probability(probabilities: Probabilities) -> None:
    # Probabilities 1/4, 0, 1/4, 1/2.
    logits = np.log(np.array([1, 0, 1, 2], np.float32) + 1e-45)
    logits[1] = -np.inf
    cumulative = probabilities.cumulative(logits)
    uniforms = [0.0, 0.2499, 0.2501, 0.4999, 0.5001]
    assert [sample_from(cumulative, uniform) for uniform in uniforms] == [0, 0, 2, 2, 3]


@both
def test_tokens_of_probability_0_are_never_taken(probabilities: Probabilities) -> None:
    logits = np.array([-np.inf, 0, -np.inf, 5, -np.inf], np.float32)
    cumulative = probabilities.cumulative(logits)
    for uniform in (0.0, 1e-300, 0.5, 1 - 2.0**-53):
        assert sample_from(cumulative, uniform) in (1, 3)
    assert sample_from(cumulative, 0.0) == 1
    assert sample_from(cumulative, 1 - 2.0**-53) == 3


@both
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_token_is_drawn_of_what_is_no_number(probabilities: Probabilities, value: float) -> None:
    logits = np.array([0, value, 1], np.float32)
    with np.errstate(invalid="ignore"), pytest.raises(ModelError, match="not finite numbers"):
        sample_from(probabilities.cumulative(logits), 0.5)


@both
def test_frequencies_follow_the_probabilities(probabilities: Probabilities) -> None:
    cumulative = probabilities.cumulative(np.log(np.array([0.1, 0.2, 0.3, 0.4], np.float32)))
    uniforms = np.array([sample_uniforms(0, 0, 1.0, 5, step) for step in range(2000)])
    counts = np.bincount([sample_from(cumulative, u) for u in uniforms.ravel()], minlength=4)
    assert ((counts - [1000, 2000, 3000, 4000]) ** 2 / [1000, 2000, 3000, 4000]).sum() < 16.3


def test_windows_are_sampled_by_their_positions() -> None:
    random = np.random.RandomState(0)
    steps = random.standard_normal((6, 20)).astype(np.float32)

    def tokens(seek: int) -> list[list[int]]:
        search = GreedySearch(2, 99, Sampler(9, seek, 0.8, 2, FLOATS), 0)
        for logits in steps:
            search.update(given(np.tile(logits, (2, 1))))
        found: list[list[int]] = search.tokens.tolist()
        return found

    assert tokens(3000) == tokens(3000)
    assert len({str(tokens(seek)) for seek in (0, 3000, 4400)}) == 3
    assert tokens(0)[0] != tokens(0)[1]


def given(logits: np.ndarray) -> Logits:
    """What a sampler looks at."""
    return Logits(logits, np.empty((len(logits), 0), np.int64), np.empty((len(logits), 0), "f4"))


@both
@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_the_temperature_divides_the_logits(
    temperature: float, probabilities: Probabilities
) -> None:
    logits = np.array([[0.0, 1.0]], np.float32)
    sampler = Sampler(0, 0, temperature, 1, probabilities)
    share = np.mean([sampler(given(logits), [0], step)[0][0] for step in range(3000)])
    expected = 1 / (1 + np.exp(-1 / temperature))
    assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / 3000)


@both
@pytest.mark.parametrize("temperature", [1e-30, 1e-6])
def test_the_coldest_temperatures_take_the_likeliest(
    temperature: float, probabilities: Probabilities
) -> None:
    logits = np.array([[-np.inf, 70.0, 70.5, -1e4, -np.inf]], np.float32)
    sampler = Sampler(0, 0, temperature, 1, probabilities)
    assert {sampler(given(logits), [0], step)[0][0] for step in range(50)} == {2}


@both
@pytest.mark.parametrize("temperature", [1e30, 1e9])
def test_the_hottest_temperatures_take_any_that_is_not_forbidden(
    temperature: float, probabilities: Probabilities
) -> None:
    logits = np.array([[-np.inf, 70.0, -1e4, -np.inf]], np.float32)
    sampler = Sampler(0, 0, temperature, 1, probabilities)
    counts = np.bincount([sampler(given(logits), [0], step)[0][0] for step in range(2000)])
    assert counts[[0]] == 0
    assert len(counts) == 3
    assert abs(counts[1] - 1000) < 4 * np.sqrt(500)
