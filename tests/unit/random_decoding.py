"""Decoding and alignment replaced by chance, for tests of the loop over windows.

The same window, temperature and prompt always get the same results.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from typing import Any

from tests.unit.decoding_fakes import small_tokenizer
from whisper_npu.decoding.timing import WordTiming

TOKENIZER = small_tokenizer()
BEGIN = TOKENIZER.timestamp_begin
TEXTS = [" the", " water", ",", ".", " and", "!", " ", " (", "é", " \u2014"]


def seeded(*key: Any) -> random.Random:
    return random.Random(zlib.crc32(repr(key).encode()))


def random_tokens(chance: random.Random, with_timestamps: bool) -> list[int]:
    """Text with timestamps that grow, in pairs or not, sometimes ending in the middle."""

    def text() -> list[int]:
        spoken = "".join(chance.choice(TEXTS) for _ in range(chance.randint(1, 6)))
        return TOKENIZER.encode(spoken)

    if not with_timestamps:
        return text()
    tokens: list[int] = []
    at = chance.randint(0, 30)
    for _ in range(chance.randint(1, 5)):
        end = at + chance.randint(1, 350)
        if end > 1500:
            break
        tokens += [BEGIN + at, *text(), BEGIN + end]
        at = end + chance.choice([0, 0, 0, chance.randint(0, 200)])
    ending = chance.choice(["pair", "single", "open", "text"])
    if ending == "pair" and tokens and at <= 1500:
        tokens.append(BEGIN + at)
    elif ending == "open" and at <= 1500:
        tokens += [BEGIN + at, *text()]
    elif ending == "text":
        tokens = [BEGIN + chance.randint(0, 20), *text()]
    return tokens or [BEGIN, *text()]


def random_result(key: Any, temperature: float, with_timestamps: bool) -> dict[str, Any]:
    chance = seeded(key, temperature)
    return {
        "language": "en",
        "tokens": random_tokens(chance, with_timestamps),
        "text": "x",
        "avg_logprob": chance.choice([-0.3, -0.9, -1.0, -1.4, -2.0]),
        "no_speech_prob": chance.choice([0.0, 0.3, 0.6, 0.7, 0.9]),
        "temperature": temperature,
        "compression_ratio": chance.choice([1.0, 2.4, 2.6]),
    }


def random_alignment(
    tokenizer: Any, text_tokens: Sequence[int], num_frames: int
) -> list[WordTiming]:
    """Words of all lengths, with gaps, some improbable, within the audio of the window."""
    chance = seeded(tuple(text_tokens), num_frames)
    found, runs = tokenizer.split_to_word_tokens([*text_tokens, tokenizer.eot])
    steps = sorted(chance.randint(0, num_frames // 2) for _ in range(len(found)))
    improbable = chance.random() < 0.4
    return [
        WordTiming(word, run, start / 50, end / 50, 0.1 if improbable else 0.8)
        for word, run, start, end in zip(found[:-1], runs[:-1], steps, steps[1:], strict=False)
    ]


def random_options(chance: random.Random, n_frames: int) -> dict[str, Any]:
    options: dict[str, Any] = {
        "language": "en",
        "temperature": chance.choice([0.0, (0.0, 0.4), (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]),
        "condition_on_previous_text": chance.random() < 0.7,
        "without_timestamps": chance.random() < 0.1,
        "compression_ratio_threshold": chance.choice([2.4, 2.4, None]),
        "logprob_threshold": chance.choice([-1.0, -1.0, -0.5, None]),
        "no_speech_threshold": chance.choice([0.6, 0.6, 0.2, None]),
    }
    if chance.random() < 0.4:
        options["initial_prompt"] = " the water "
        options["carry_initial_prompt"] = chance.random() < 0.5
    if chance.random() < 0.4:
        seconds = sorted(chance.randint(0, n_frames) / 100 for _ in range(chance.randint(1, 4)))
        options["clip_timestamps"] = chance.choice([seconds, ",".join(map(str, seconds))])
    if chance.random() < 0.6:
        options["word_timestamps"] = True
        if chance.random() < 0.7:
            options["hallucination_silence_threshold"] = chance.choice([0.5, 2.0])
    return options
