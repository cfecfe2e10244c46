"""What is transcribed on both sides and compared token for token.

Each case is a seeded model, a recording and options of ``whisper.transcribe``; together they pass
through every rule of decoding and of the window loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from tests.support import synthetic_audio
from tests.support.checkpoints import Recipe

JFK = Path(__file__).parents[2] / "samples" / "jfk.flac"  # 11 s of speech, 16 kHz, public domain
SAMPLING_SEED = 7


@dataclass(frozen=True)
class Case:
    """``seed`` is the model's; ``options`` are keywords of ``whisper.transcribe``."""

    size: str
    seed: int
    audio: str
    options: Mapping[str, Any] = field(default_factory=dict)
    alignment_heads: tuple[tuple[int, int], ...] | None = None

    @property
    def recipe(self) -> Recipe:
        return Recipe(self.size, "small", self.seed, alignment_heads=self.alignment_heads)


def recording(name: str) -> np.ndarray:
    """Samples of a recording, float32 [n] at 16 kHz."""
    if name == "jfk":
        samples, rate = soundfile.read(JFK, dtype="float32")
        assert rate == synthetic_audio.RATE
        return samples
    return {
        "speech": lambda: synthetic_audio.speech(95, seed=3),
        "talk": lambda: synthetic_audio.recorded_speech(41.3, seed=5),
        "noise": lambda: synthetic_audio.noise(33, seed=2),
        "silence": lambda: synthetic_audio.silence(20),
        "click": lambda: synthetic_audio.noise(0.05, seed=4),
    }[name]()


PROMPT = "Ask not what the lighthouse can do for you."
ONE_TEMPERATURE: Mapping[str, Any] = {"temperature": 0.0}

CASES: Mapping[str, Case] = {
    # Greedy search and the defaults, which fall back to sampling where a window fails.
    "greedy": Case("odd", 3, "jfk", ONE_TEMPERATURE),
    "greedy on long speech": Case("odd", 3, "speech", ONE_TEMPERATURE),
    "defaults": Case("nano", 1, "speech"),
    "tiny": Case("tiny", 1, "jfk"),
    "128 mels and 8 encoder layers": Case("uneven", 2, "jfk"),
    "noise": Case("odd", 1, "noise"),
    "silence": Case("nano", 3, "silence"),
    "a click": Case("nano", 5, "click"),
    # Beam search.
    "beam": Case("odd", 2, "talk", {"beam_size": 5}),
    "beam on long speech": Case("nano", 5, "speech", {"beam_size": 5}),
    "beam of tiny": Case("tiny", 2, "jfk", {"beam_size": 5, "sample_len": 30}),
    "patience": Case("odd", 4, "talk", {"beam_size": 3, "patience": 2.0}),
    "impatience": Case("odd", 4, "talk", {"beam_size": 5, "patience": 0.4}),
    "length penalty": Case("nano", 2, "talk", {"beam_size": 4, "length_penalty": 0.3}),
    # Languages and tasks.
    "language given": Case("odd", 5, "jfk", {"language": "de"}),
    "translate": Case("odd", 5, "jfk", {"task": "translate", "language": "ko"}),
    "English only": Case("tiny.en", 1, "jfk"),
    # Prompts.
    "prompt": Case("odd", 3, "talk", {"initial_prompt": PROMPT}),
    "prompt without context": Case(
        "odd", 3, "speech", {"initial_prompt": PROMPT, "condition_on_previous_text": False}
    ),
    "carried prompt": Case(
        "odd", 3, "speech", {"initial_prompt": PROMPT, "carry_initial_prompt": True}
    ),
    "carried prompt that leaves little context": Case(
        "odd", 1, "talk", {"initial_prompt": PROMPT * 6, "carry_initial_prompt": True}
    ),
    "prefix": Case("nano", 6, "talk", {"prefix": "The doctor asked", "sample_len": 50}),
    "long prefix": Case("nano", 6, "talk", {"prefix": PROMPT * 8, "sample_len": 150}),
    # Windows.
    "no timestamps": Case("odd", 0, "speech", {"without_timestamps": True}),
    "no context": Case("nano", 4, "speech", {"condition_on_previous_text": False}),
    "clips": Case("nano", 1, "speech", {"clip_timestamps": "3.3,21,40,40,55.5,60.04,71"}),
    "clips in a list": Case("nano", 1, "talk", {"clip_timestamps": [1.0, 2.5, 30.0]}),
    "silence is skipped": Case(
        "odd", 2, "speech", {"no_speech_threshold": 0.3, "logprob_threshold": -0.35}
    ),
    "silence and no other check": Case(
        "odd", 2, "speech", {"no_speech_threshold": 0.5, "logprob_threshold": None}
    ),
    "silence is not decoded again": Case(
        "nano", 1, "jfk", {"no_speech_threshold": 0.2, "logprob_threshold": -0.5}
    ),
    # Rules.
    "late first timestamp": Case("nano", 7, "talk", {"max_initial_timestamp": None}),
    "early first timestamp": Case("nano", 7, "talk", {"max_initial_timestamp": 0.04}),
    "blanks allowed": Case("nano", 0, "talk", {"suppress_blank": False}),
    "nothing suppressed": Case("nano", 5, "talk", {"suppress_tokens": ""}),
    "more suppressed": Case("nano", 4, "talk", {"suppress_tokens": "-1,262,300,301,756"}),
    # Temperatures.
    "all temperatures fail": Case(
        "nano", 4, "talk", {"logprob_threshold": 0.0, "temperature": (0.0, 0.4, 1.0)}
    ),
    "repetition fails": Case("odd", 1, "noise", {"compression_ratio_threshold": 1.3}),
    "fallback from beams": Case(
        "nano",
        2,
        "talk",
        {"beam_size": 2, "best_of": 3, "temperature": (0.0, 0.5), "logprob_threshold": -0.3},
    ),
    "one temperature": Case("odd", 2, "talk", {"temperature": 0.8}),
    "best of three": Case("odd", 2, "jfk", {"temperature": 0.6, "best_of": 3}),
    # Word timestamps.
    "words": Case("odd", 3, "jfk", {"word_timestamps": True}),
    "words of long speech": Case("odd", 3, "speech", {"word_timestamps": True}),
    "words without spaces": Case("odd", 2, "talk", {"word_timestamps": True, "language": "ja"}),
    "words by two heads": Case(
        "nano", 2, "talk", {"word_timestamps": True}, alignment_heads=((1, 1), (0, 0))
    ),
    "words and hallucinations": Case(
        "nano", 3, "talk", {"word_timestamps": True, "hallucination_silence_threshold": 2.0}
    ),
    "words, clips and beams": Case(
        "nano", 4, "speech", {"word_timestamps": True, "clip_timestamps": "10,50", "beam_size": 3}
    ),
}
