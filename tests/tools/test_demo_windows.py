"""The training windows of the demo model."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ("The train is late.", "Two cups of tea, please.", "It will rain tomorrow.")

pytestmark = pytest.mark.reference


@pytest.fixture(scope="module")
def composer() -> Any:
    sys.path.insert(0, str(ROOT / "tools" / "demo_model"))
    try:
        import data
        import synth
    finally:
        sys.path.pop(0)
    from tokenizers import Tokenizer

    noise = np.random.default_rng(1)
    utterances = [
        (
            (3000 * noise.standard_normal(24000 + 8000 * i)).astype(np.int16),
            synth.Utterance(0, 24000 + 8000 * i, "none", text),
        )
        for i, text in enumerate(TEXTS)
    ]
    tokenizer = Tokenizer.from_file(str(ROOT / "weights" / "demo" / "tokenizer.json"))
    return data.Composer(ROOT, tokenizer, seed=3, utterances=utterances)


@pytest.mark.parametrize(("hardness", "share"), [(0.0, 0.06), (1.0, 0.2), (2.0, 0.5)])
def test_full_windows_become_more_frequent(composer: Any, hardness: float, share: float) -> None:
    composer.rng, composer.hardness = random.Random(1), hardness
    drawn = [composer.pick_bucket() for _ in range(2000)]
    assert drawn.count(4) / len(drawn) == pytest.approx(share, abs=0.03)


def test_a_window_s_labels_are_its_tokens_one_ahead_and_its_prompt_counts_nothing(
    composer: Any,
) -> None:
    import vocab

    composer.hardness, prompts = 2.0, 0
    for _ in range(60):
        window = composer.window(30.0, 0.0)
        assert len(window.tokens) <= len(window.labels) <= 448
        prompt = window.tokens.index(vocab.SOT)
        prompts += prompt > 0
        assert prompt <= 224
        assert window.labels[:prompt] == [-1] * prompt
        spoken = [t for t in window.labels if 0 <= t < vocab.BASE_SIZE]
        heard = composer.tokenizer.decode(spoken)
        assert not heard or any(text in heard for text in TEXTS)
    assert 20 <= prompts <= 55


def test_every_timed_utterance_lies_between_its_timestamps(composer: Any) -> None:
    import vocab

    composer.hardness = 2.0
    timed = 0
    for _ in range(40):
        labels = [t for t in composer.window(30.0, 0.0).labels if t >= 0]
        stamps = [t for t in labels if t >= vocab.TIMESTAMP_BEGIN]
        timed += len(stamps) > 2
        assert stamps == sorted(stamps)
        assert all(t <= vocab.TIMESTAMP_BEGIN + 1500 for t in stamps)
    assert timed > 20
