from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import whisper_npu
from tests.support.checkpoints import Recipe
from tests.support.signals import noise
from whisper_npu import Transcriber, Transcription
from whisper_npu.errors import AudioError, OptionError

AUDIO = noise(16000 * 40)
GREEDY = {"language": "en", "temperature": 0.0, "sample_len": 40}


@pytest.fixture
def transcriber(seeded_directory: Callable[[Recipe], Path]) -> Transcriber:
    return Transcriber(seeded_directory(Recipe("nano", seed=1)))


def test_the_stream_gives_what_the_whole_gives(transcriber: Transcriber) -> None:
    whole = transcriber.transcribe(AUDIO, **GREEDY)
    stream = transcriber.segments(AUDIO, **GREEDY)
    assert tuple(stream) == whole.segments
    assert stream.result() == whole
    assert isinstance(whole, Transcription)
    assert whole.text == "".join(segment.text for segment in whole.segments)
    assert (whole.language, whole.duration) == ("en", 40.0)
    assert len(whole.segments) > 1


def test_segments_arrive_as_they_are_decoded(transcriber: Transcriber) -> None:
    stream = transcriber.segments(AUDIO, **GREEDY)
    assert stream.seek == 0
    first = next(stream)
    assert 0 < stream.seek < stream.n_frames == 4000
    assert stream.result().segments == (first,)


def test_a_transcriber_is_used_many_times(transcriber: Transcriber) -> None:
    first = transcriber.transcribe(AUDIO, **GREEDY)
    transcriber.transcribe(AUDIO[::-1].copy(), beam_size=2, language="de", temperature=0.0)
    assert transcriber.transcribe(AUDIO, **GREEDY) == first


def test_sampling_depends_on_the_seed_and_not_on_what_came_before(
    transcriber: Transcriber, seeded_directory: Callable[[Recipe], Path]
) -> None:
    options = {"language": "en", "temperature": 0.7, "best_of": 2, "sample_len": 30}
    first = transcriber.transcribe(AUDIO, **options, seed=3)
    other = transcriber.transcribe(AUDIO, **options, seed=4)
    assert first.text != other.text
    fresh = Transcriber(seeded_directory(Recipe("nano", seed=1)))
    assert fresh.transcribe(AUDIO, **options, seed=3) == first


def test_result_is_openai_whispers_dictionary_and_the_placement(transcriber: Transcriber) -> None:
    result = transcriber.transcribe(AUDIO, **GREEDY).to_dict()
    assert list(result) == ["text", "segments", "language", "placement"]
    assert list(result["segments"][0]) == [
        "id",
        "seek",
        "start",
        "end",
        "text",
        "tokens",
        "temperature",
        "avg_logprob",
        "compression_ratio",
        "no_speech_prob",
    ]
    assert isinstance(result["segments"][0]["tokens"], list)


def test_the_probability_of_a_detected_language(transcriber: Transcriber) -> None:
    stream = transcriber.segments(AUDIO[:16000], temperature=0.0, sample_len=5)
    assert stream.language_probs is not None
    assert stream.language_probability == max(stream.language_probs.values())
    result = stream.result().to_dict()
    assert list(result) == ["text", "segments", "language", "language_probability", "placement"]
    assert result["language_probability"] == stream.language_probs[result["language"]]


def test_words_are_part_of_the_result(transcriber: Transcriber) -> None:
    result = transcriber.transcribe(AUDIO, **GREEDY, word_timestamps=True).to_dict()
    words = [word for segment in result["segments"] for word in segment["words"]]
    assert words
    assert list(words[0]) == ["word", "start", "end", "probability"]
    assert all(word["start"] <= word["end"] for word in words)


def test_an_array_may_have_another_rate(transcriber: Transcriber) -> None:
    assert transcriber.transcribe(noise(8000), sampling_rate=8000, **GREEDY).duration == 1.0


def test_unknown_option(transcriber: Transcriber) -> None:
    with pytest.raises(OptionError, match="beamsize: is not an option; did you mean beam_size"):
        transcriber.transcribe(AUDIO, beamsize=5)


def test_a_language_the_model_does_not_have(transcriber: Transcriber) -> None:
    with pytest.raises(OptionError, match="language"):
        transcriber.transcribe(AUDIO, language="xx")


def test_bad_audio(transcriber: Transcriber) -> None:
    with pytest.raises(AudioError, match="not a finite number"):
        transcriber.transcribe(np.full(100, np.nan, np.float32))


def test_public_names() -> None:
    for name in whisper_npu.__all__:
        assert getattr(whisper_npu, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        whisper_npu.missing  # noqa: B018


@pytest.mark.parametrize("priority", ["high", 1.5, True, None])
def test_a_priority_is_a_whole_number(transcriber: Transcriber, priority: Any) -> None:
    for begin in (transcriber.transcribe, transcriber.segments, transcriber.asegments):
        with pytest.raises(OptionError, match=r"^priority: must be a whole number, not "):
            begin(AUDIO, priority=priority)
