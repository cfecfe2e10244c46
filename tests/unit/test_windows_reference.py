"""The loop over windows against openai-whisper's, with decoding and alignment replaced by chance.

Both get the same random results for the same window, temperature and prompt, so that any
difference in these, or in what is made of the results, shows.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.unit.decoding_fakes import FakeModel, begin_transcript, replace_decoding
from tests.unit.random_decoding import (
    TOKENIZER,
    random_alignment,
    random_options,
    random_result,
    seeded,
)
from whisper_npu.decoding import words
from whisper_npu.decoding.options import DecodingResult, TranscribeOptions
from whisper_npu.decoding.timing import WordTiming

pytestmark = pytest.mark.reference

# Where openai-whisper's loop does not end; ours always does.
ENDLESS = 150


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
        replace_decoding(monkeypatch, self.our_decoding)
        monkeypatch.setattr(words, "find_alignment", self.our_alignment)

    def result(self, seek: int, options: Any, prompt: Sequence[int]) -> dict[str, Any]:
        attempt = (seek, float(options.temperature), tuple(prompt))
        self.tried.append(attempt)
        if len(self.tried) > ENDLESS:
            raise Endless
        return random_result((self.trial, *attempt), attempt[1], not options.without_timestamps)

    def our_decoding(self, seek: int, options: Any, prompt: Sequence[int]) -> DecodingResult:
        result = self.result(seek, options, prompt)
        return DecodingResult(**{**result, "tokens": tuple(result["tokens"])})

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

        result = self.both.result(int(mel[0, 0]), options, options.prompt)
        return DecodingResult(audio_features=None, **result)


class OurFeatures:
    def __init__(self, n_frames: int) -> None:
        self.n_frames, self.duration = n_frames, n_frames / 100

    def window(self, seek: int, size: int | None = None) -> np.ndarray:
        return np.full((2, 3000), seek, np.float32)

    def full_window(self, seek: int) -> np.ndarray:
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
        checked = TranscribeOptions(**options, raw_timestamps=True)
        result = begin_transcript(model, TOKENIZER, OurFeatures(n_frames), checked)
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
