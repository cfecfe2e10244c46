"""Several windows at a time: the built-in model gives the tokens that it gives one by one."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whisper_npu import Transcriber, Transcription
from whisper_npu.audio import load_audio
from whisper_npu.audio.features import compute_log_mel
from whisper_npu.backends.opening import numpy_model
from whisper_npu.decoding.clips import find_clips
from whisper_npu.decoding.options import DecodingOptions, DecodingResult, TranscribeOptions
from whisper_npu.decoding.task import decode
from whisper_npu.hub.folders import built_in_directory
from whisper_npu.model.checkpoint import load_checkpoint

SAMPLES = Path(__file__).parents[2] / "samples" / "synthetic"
TEXTS = json.loads((SAMPLES / "texts.json").read_text())
# 74 s, in which pauses of every length follow each other.
ORDER = ["several", "order", "weather", "directions", "message", "several", "message", "order"]
ORDER += ["directions", "weather", "order", "message", "weather", "directions"]
GREEDY = {"language": "en", "temperature": 0.0}
# Clips of several windows and of one, two of which fail together at temperature 0.
CHAINS: dict[str, Any] = {
    "language": "en",
    "clip_timestamps": "0,31,37,41,41,44.2,44.2,48",
    "temperature": (0.0, 0.6),
    "compression_ratio_threshold": 0.85,
    "sample_len": 60,
    "best_of": 2,
    "initial_prompt": "A few sentences.",
    "word_timestamps": True,
}


@lru_cache(maxsize=1)
def audio() -> np.ndarray:
    heard = {name: load_audio(str(SAMPLES / f"{name}.flac")) for name in set(ORDER)}
    return np.concatenate([heard[name] for name in ORDER])


@pytest.fixture(scope="module")
def transcriber() -> Transcriber:
    return Transcriber("demo", precision="float32")


@pytest.fixture(scope="module")
def single(transcriber: Transcriber) -> Transcription:
    return transcriber.transcribe(audio(), **GREEDY, batch_size=1)


def check(batched: Transcription, single: Transcription) -> None:
    assert batched.text == single.text
    for ours, theirs in zip(batched.segments, single.segments, strict=True):
        assert (ours.id, ours.seek, ours.tokens) == (theirs.id, theirs.seek, theirs.tokens)
        assert (ours.start, ours.end) == (theirs.start, theirs.end)
        assert ours.temperature == theirs.temperature
        assert ours.avg_logprob == pytest.approx(theirs.avg_logprob, abs=1e-5)
        assert ours.no_speech_prob == pytest.approx(theirs.no_speech_prob, abs=1e-5)
        assert [w.word for w in ours.words or ()] == [w.word for w in theirs.words or ()]


@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_batches_of_all_sizes(
    transcriber: Transcriber, single: Transcription, batch_size: int
) -> None:
    check(transcriber.transcribe(audio(), **GREEDY, batch_size=batch_size), single)


def test_beams(transcriber: Transcriber) -> None:
    alone, together = (
        transcriber.transcribe(audio(), **GREEDY, beam_size=3, batch_size=n) for n in (1, 3)
    )
    check(together, alone)


def test_chains_prompts_words_and_samples(transcriber: Transcriber) -> None:
    alone, together = (transcriber.transcribe(audio(), **CHAINS, batch_size=n) for n in (1, 3))
    check(together, alone)
    # What was meant to happen did.
    assert len({segment.seek for segment in alone.segments}) > 4
    assert {segment.temperature for segment in alone.segments} == {0.0, 0.6}


def test_the_same_clips_one_after_the_other(
    transcriber: Transcriber, single: Transcription
) -> None:
    with compute_log_mel([audio()], 80, transcriber._model.log_mel) as log_mel:
        options = TranscribeOptions.from_keywords(batch_size=2)
        clips = list(find_clips(log_mel, options, transcriber.dims.n_frames))
    assert len(clips) > 2
    points = [frame / 100 for clip in clips for frame in clip]
    one_by_one = transcriber.transcribe(
        audio(), **GREEDY, clip_timestamps=points, condition_on_previous_text=False
    )
    assert single == one_by_one


def test_no_word_is_cut(single: Transcription) -> None:
    found = single.text.split()
    said = " ".join(TEXTS[f"{name}.flac"]["text"] for name in ORDER).split()
    assert len(found) == len(said)
    assert sum(a != b for a, b in zip(found, said, strict=True)) <= len(said) // 50


def test_int8(transcriber: Transcriber) -> None:
    """In integers, a batch and its windows one by one are equal to the last bit."""
    model = numpy_model(load_checkpoint(built_in_directory()), "int8")
    seeks = [0, 1161, 1552]
    with compute_log_mel([audio()], 80, model.log_mel, "int8") as log_mel:
        features = np.stack([log_mel.window(seek, 400) for seek in seeks])
    alone = [model.encode(window[None]) for window in features]
    together = model.encode(features)
    assert np.array_equal(together, np.concatenate(alone))
    options = DecodingOptions(language="en", beam_size=2, sample_len=12)

    def results(states: np.ndarray, seeks: list[int]) -> list[DecodingResult]:
        return decode(model, transcriber._tokenizer, states, options, seeks=seeks)

    found = results(together, seeks)
    for result, states, seek in zip(found, alone, seeks, strict=True):
        # Not equal as a whole: languages are not detected, and NaN is not NaN.
        (other,) = results(states, [seek])
        assert (result.tokens, result.avg_logprob) == (other.tokens, other.avg_logprob)
        assert result.no_speech_prob == other.no_speech_prob
    assert len({result.tokens for result in found}) == 3
