"""The training windows of the built-in model."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

MODEL = Path(__file__).parents[2] / "weights" / "demo"
TEXTS = ("The train is late.", "Two cups of tea, please.", "It will rain tomorrow.")

pytestmark = pytest.mark.reference


@pytest.fixture(scope="module")
def composer() -> Any:
    from weights.demo.recipe import synth, windows

    noise = np.random.default_rng(1)
    utterances = [
        (
            (3000 * noise.standard_normal(24000 + 8000 * i)).astype(np.int16),
            synth.Utterance(0, 24000 + 8000 * i, "none", text),
        )
        for i, text in enumerate(TEXTS)
    ]
    return windows.Composer(MODEL, seed=3, utterances=utterances)


@pytest.mark.parametrize(("hardness", "share"), [(0.0, 0.06), (1.0, 0.2), (2.0, 0.6)])
def test_full_windows_become_more_frequent(composer: Any, hardness: float, share: float) -> None:
    composer.rng, composer.hardness = random.Random(1), hardness
    drawn = [composer.pick_bucket() for _ in range(2000)]
    assert drawn.count(4) / len(drawn) == pytest.approx(share, abs=0.03)


def test_a_window_s_labels_are_its_tokens_one_ahead_and_its_prompt_counts_nothing(
    composer: Any,
) -> None:
    from weights.demo.recipe import vocab

    composer.hardness, prompts = 2.0, 0
    for _ in range(60):
        (reading,) = composer.window(30.0, 0.0).readings
        assert len(reading.tokens) <= len(reading.labels) <= 448
        prompt = reading.tokens.index(vocab.SOT)
        prompts += prompt > 0
        assert prompt <= 224
        assert reading.labels[:prompt] == [-1] * prompt
        said = reading.tokens[prompt + 1 :]
        if reading.labels[prompt] != vocab.NO_SPEECH:
            changed = sum(
                a != b for a, b in zip(said, reading.labels[prompt:], strict=False) if b >= 0
            )
            assert changed <= 0.2 * len(said) + 2
        spoken = [t for t in reading.labels if 0 <= t < vocab.BASE_SIZE]
        heard = composer.tokenizer.decode(spoken)
        assert not heard or any(text in heard for text in TEXTS)
    assert 20 <= prompts <= 55


def test_every_timed_utterance_lies_between_its_timestamps(composer: Any) -> None:
    from weights.demo.recipe import vocab

    composer.hardness = 2.0
    timed = 0
    for _ in range(40):
        labels = [t for t in composer.window(30.0, 0.0).readings[0].labels if t >= 0]
        stamps = [t for t in labels if t >= vocab.TIMESTAMP_BEGIN]
        timed += len(stamps) > 2
        assert stamps == sorted(stamps)
        assert all(t <= vocab.TIMESTAMP_BEGIN + 1500 for t in stamps)
    assert timed > 20


def test_every_reading_of_a_window_says_the_same_after_a_text_of_its_own(composer: Any) -> None:
    from weights.demo.recipe import vocab

    composer.hardness, composer.readings = 2.0, 3
    try:
        windows = [composer.window(30.0, 0.0) for _ in range(8)]
        batch = composer.collate(windows, 0)
    finally:
        composer.readings = 1
    assert batch.mel.shape[0] == 8
    assert batch.tokens.shape == batch.labels.shape
    assert batch.tokens.shape[0] == 24
    prompts = set()
    for number, window in enumerate(windows):
        wanted = [[t for t in reading.labels if t >= 0] for reading in window.readings]
        silent = wanted[0][0] == vocab.NO_SPEECH
        assert silent or wanted[0] == wanted[1] == wanted[2]
        for row, reading in enumerate(window.readings, start=3 * number):
            prompts.add(tuple(reading.tokens[: reading.tokens.index(vocab.SOT)]))
            assert batch.tokens[row, : len(reading.tokens)].tolist() == reading.tokens
            assert batch.labels[row, : len(reading.labels)].tolist() == reading.labels
            assert (batch.labels[row, len(reading.labels) :] == -1).all()
    assert len(prompts) > 12


def test_long_windows_may_begin_just_after_an_utterance_did(composer: Any) -> None:
    composer.rng, composer.hardness = random.Random(5), 2.0
    wholes = {len(samples) for samples, _ in composer.utterances}
    composer.clean = True  # no other tempo
    try:
        firsts = [composer._layout(30.0)[0] for _ in range(200)]
        composer.hardness = 1.0
        assert all(len(composer._layout(30.0)[0][1]) in wholes for _ in range(50))
    finally:
        composer.clean = False
    begun = [len(samples) for at, samples, _ in firsts if len(samples) not in wholes]
    assert 50 <= len(begun) <= 110
    assert all(at == 0 for at, samples, _ in firsts if len(samples) not in wholes)
    assert all(min(whole - n for whole in wholes if whole > n) <= 0.3 * 16000 for n in begun)
