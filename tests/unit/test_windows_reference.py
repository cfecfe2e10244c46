"""The loop over windows against openai-whisper's, with decoding and alignment replaced by chance.

Both get the same random results for the same window, temperature and prompt, so that any
difference in these, or in what is made of the results, shows.
"""

from __future__ import annotations

import importlib
import random
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.unit.decoding_fakes import FakeModel, small_tokenizer
from whisper_npu.decoding import windows, words
from whisper_npu.decoding.options import DecodingResult, TranscribeOptions
from whisper_npu.decoding.timing import WordTiming
from whisper_npu.decoding.windows import transcribe_windows

pytestmark = pytest.mark.reference

TOKENIZER = small_tokenizer()
BEGIN = TOKENIZER.timestamp_begin
TEXTS = [" the", " water", ",", ".", " and", "!", " ", " (", "é", " \u2014"]
# Where openai-whisper's loop does not end; ours always does.
ENDLESS = 150


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


class Endless(Exception):
    pass


class Both:
    """Random decoding for one trial, under both programs' names."""

    def __init__(self, trial: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trial, self.count = trial, 0
        self.tried: list[tuple[int, float, tuple[int, ...]]] = []
        transcribe = importlib.import_module("whisper.transcribe")
        timing = importlib.import_module("whisper.timing")
        monkeypatch.setattr(transcribe, "get_tokenizer", lambda *args, **options: TOKENIZER)
        monkeypatch.setattr(transcribe, "log_mel_spectrogram", lambda mel, *args, **padding: mel)
        monkeypatch.setattr(timing, "find_alignment", self.their_alignment)
        monkeypatch.setattr(windows, "decode_session", self.our_decoding)
        monkeypatch.setattr(words, "find_alignment", self.our_alignment)

    def result(self, seek: int, options: Any) -> dict[str, Any]:
        attempt = (seek, float(options.temperature), tuple(options.prompt))
        self.tried.append(attempt)
        if len(self.tried) > ENDLESS:
            raise Endless
        return random_result((self.trial, *attempt), attempt[1], not options.without_timestamps)

    def our_decoding(
        self, session: Any, tokenizer: Any, dims: Any, options: Any, seeks: Sequence[int]
    ) -> list[DecodingResult]:
        result = self.result(seeks[0], options)
        return [DecodingResult(**{**result, "tokens": tuple(result["tokens"])})]

    def our_alignment(
        self, session: Any, tokenizer: Any, text_tokens: Any, num_frames: int, heads: Any
    ) -> list[WordTiming]:
        return random_alignment(tokenizer, text_tokens, num_frames) if text_tokens else []

    def their_alignment(
        self, model: Any, tokenizer: Any, text_tokens: Any, mel: Any, num_frames: int
    ) -> list[WordTiming]:
        return self.our_alignment(None, tokenizer, text_tokens, num_frames, None)


class TheirModel:
    """What openai-whisper's loop needs of a model; frames of the spectrogram hold their number."""

    def __init__(self, both: Both) -> None:
        import torch

        self.device, self.both = torch.device("cpu"), both
        self.dims = FakeModel(lambda window, context: {}).dims
        self.is_multilingual, self.num_languages = True, 3

    def decode(self, mel: Any, options: Any) -> Any:
        from whisper.decoding import DecodingResult

        result = self.both.result(int(mel[0, 0]), options)
        return DecodingResult(audio_features=None, **result)


class OurFeatures:
    def __init__(self, n_frames: int) -> None:
        self.n_frames = n_frames

    def window(self, seek: int, size: int | None = None) -> np.ndarray:
        return np.full((2, 3000), seek, np.float32)

    def opening_window(self) -> np.ndarray:
        raise AssertionError("the language is given")


def test_the_loop_is_openais(monkeypatch: pytest.MonkeyPatch) -> None:
    whisper = pytest.importorskip("whisper")
    torch = pytest.importorskip("torch")
    n_compared = n_segments = 0
    for trial in range(400):
        chance = seeded("options", trial)
        n_frames = chance.choice([1, 150, 2999, 3000, 3001, 7000, 12000])
        options = random_options(chance, n_frames)

        both = Both(trial, monkeypatch)
        mel = torch.arange(n_frames + 3000, dtype=torch.float32).tile(2, 1)
        try:
            expected = whisper.transcribe(TheirModel(both), mel, fp16=False, **options)
        except Endless:
            continue
        theirs, both.tried = both.tried, []
        model = FakeModel(lambda window, context: {})
        checked = TranscribeOptions(**options)
        result = transcribe_windows(model, TOKENIZER, OurFeatures(n_frames), checked)
        segments = [segment.to_dict() for segment in result]

        assert both.tried == theirs, options
        assert segments == expected["segments"], options
        assert result.text == expected["text"]
        assert result.language == expected["language"]
        n_compared += 1
        n_segments += len(segments)
    # Enough of what was drawn is worth comparing.
    assert n_compared > 350
    assert n_segments > 1000
