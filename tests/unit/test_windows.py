"""The loop over windows: where they begin, what becomes of their tokens, languages, clips."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.unit.decoding_fakes import (
    FakeFeatures,
    FakeModel,
    begin_transcript,
    read_tokenizer,
    replace_decoding,
    says,
    seeks,
    small_tokenizer,
    tokenizer_json,
    transcript,
)
from whisper_npu.decoding.options import DecodingResult, TranscribeOptions
from whisper_npu.errors import ModelError, OptionError

TOKENIZER = small_tokenizer()
BEGIN = TOKENIZER.timestamp_begin
A, B = TOKENIZER.encode(" the water"), TOKENIZER.encode(" and the")


def test_a_file_of_one_window() -> None:
    result = transcript([BEGIN, *A, BEGIN + 100], 1000)
    (segment,) = list(result)
    assert (segment.id, segment.seek, segment.start, segment.end) == (0, 0, 0.0, 2.0)
    assert segment.text == " the water"
    assert segment.tokens == (BEGIN, *A, BEGIN + 100)
    assert segment.words is None
    assert result.text == " the water"
    assert result.language == "en"
    assert result.language_probs is None
    assert (result.seek, result.n_frames) == (1000, 1000)
    assert seeks(result) == [(0, 1000)]


def test_the_next_window_begins_at_the_last_pair_of_timestamps() -> None:
    def plan(window: int) -> list[int]:
        if window == 0:
            return [BEGIN, *A, BEGIN + 100, BEGIN + 110, *B, BEGIN + 400, BEGIN + 400, *A]
        return [BEGIN, *B, BEGIN + 50]

    result = transcript(plan, 2000)
    segments = list(result)
    # The unfinished segment is dropped and decoded again in the next window.
    assert seeks(result) == [(0, 2000), (800, 1200)]
    times = [(s.id, s.seek, s.start, s.end) for s in segments]
    assert times == [(0, 0, 0.0, 2.0), (1, 0, 2.2, 8.0), (2, 800, 8.0, 9.0)]
    assert segments[1].tokens == (BEGIN + 110, *B, BEGIN + 400)
    assert result.text == " the water and the and the"


def test_a_single_timestamp_at_the_end_ends_the_window() -> None:
    plan = [BEGIN, *A, BEGIN + 100, BEGIN + 110, *B, BEGIN + 400]
    result = transcript(plan, 4000)
    assert [(s.start, s.end) for s in result] == [(0, 2), (2.2, 8), (30, 32), (32.2, 38)]
    assert seeks(result) == [(0, 3000), (3000, 1000)]


@pytest.mark.parametrize(
    ("plan", "end"),
    [
        ([BEGIN, *A], 12.0),  # nothing but the opening timestamp: the whole window
        ([BEGIN + 10, *A], 0.2),  # as openai-whisper has it
        ([BEGIN, *A, BEGIN + 500], 10.0),
    ],
)
def test_without_pairs_all_is_one_segment(plan: list[int], end: float) -> None:
    result = transcript(plan, 1200)
    (segment,) = result
    assert (segment.start, segment.end, segment.tokens) == (0.0, end, tuple(plan))
    assert seeks(result) == [(0, 1200)]


def test_without_timestamps_segments_are_windows() -> None:
    result = transcript(A, 4500, without_timestamps=True)
    assert [(s.start, s.end, s.tokens) for s in result] == [
        (0.0, 30.0, tuple(A)),
        (30.0, 45.0, tuple(A)),
    ]


def test_segments_without_text_keep_their_place() -> None:
    space = TOKENIZER.encode(" ")
    plan = [BEGIN, *A, BEGIN + 5, BEGIN + 5, *space, BEGIN + 10, BEGIN + 10, *B, BEGIN + 20]
    result = transcript(plan, 1000)
    segments = list(result)
    assert [s.text for s in segments] == [" the water", "", " and the"]
    assert (segments[1].tokens, segments[1].words) == ((), ())
    assert segments[1].to_dict()["words"] == []
    assert [s.id for s in segments] == [0, 1, 2]


def test_segments_come_as_windows_are_decoded() -> None:
    result = transcript([BEGIN, *A, BEGIN + 100], 9000)
    next(result)
    assert len(seeks(result)) == 1
    assert result.text == " the water"
    assert len(next(result.windows())) == 1
    assert len(seeks(result)) == 2
    assert len(list(result)) == 1
    assert list(result) == []


@pytest.mark.parametrize("n_frames", [0, 1])
def test_next_to_no_audio(n_frames: int) -> None:
    result = transcript([BEGIN, *A, BEGIN + 100], n_frames)
    assert len(list(result)) == n_frames


def stuck(window: int) -> DecodingResult:
    """Timestamps that would keep the loop where it is: openai-whisper's rules forbid them."""
    return DecodingResult("en", None, (*A, BEGIN, BEGIN), "x", -0.1, 0.0, 0.0, 1.0)


def test_the_loop_always_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_decoding(monkeypatch, lambda seek, options, prompt: stuck(seek))
    result = transcript([], 7000)
    assert len(list(result)) == 3
    assert seeks(result) == [(0, 3000), (3000, 3000), (6000, 1000)]


CLIPS = [
    ("0", [(0, 3000), (3000, 2000)]),
    ("", [(0, 3000), (3000, 2000)]),
    ("10", [(1000, 3000), (4000, 1000)]),
    ("1,2,41,45", [(100, 100), (4100, 400)]),
    ([1.5, 3.25], [(150, 175)]),
    ("40,999", [(4000, 1000)]),  # openai-whisper would not end
    ("5,5,70,80", []),
    ("60", []),
]


@pytest.mark.parametrize(("clips", "expected"), CLIPS)
def test_clips(clips: Any, expected: list[tuple[int, int]]) -> None:
    result = transcript([BEGIN, *A, BEGIN + 20], 5000, clip_timestamps=clips)
    starts = [s.start for s in result]
    assert seeks(result) == expected
    assert starts == [seek / 100 for seek, _ in expected]


def detecting(language: int, asked: list[int]) -> Callable[..., Mapping[int, float]]:
    def script(window: int, context: tuple[int, ...]) -> Mapping[int, float]:
        if context == (TOKENIZER.sot,):
            asked.append(window)
            return {TOKENIZER.all_language_tokens[language]: 5.0}
        return says([BEGIN, *A, BEGIN + 20])(window, context)

    return script


def test_the_language_is_detected_from_the_opening_window() -> None:
    asked: list[int] = []
    model = FakeModel(detecting(1, asked))
    result = transcript([], 2000, model, language=None, clip_timestamps="10")
    assert result.language == "de"
    assert result.language_probs is not None
    assert result.language_probs["de"] > 0.9
    assert asked == [-1]
    assert seeks(result) == []
    list(result)
    german = TOKENIZER.for_task("de", "transcribe").sot_sequence
    assert model.prompts == [(TOKENIZER.sot,), german]


def test_the_opening_window_is_encoded_once_where_it_can() -> None:
    for n_frames, n_encoded in ((2000, 2), (5000, 2), (3000, 1)):
        model = FakeModel(detecting(0, []))
        list(transcript([], n_frames, model, language=None))
        assert model.n_encoded == n_encoded


def test_a_window_is_encoded_once_for_all_temperatures() -> None:
    model = FakeModel(says([BEGIN, *A, BEGIN + 20]))
    temperatures = (0.0, 0.2, 0.4)
    list(transcript([], 3000, model, temperature=temperatures, compression_ratio_threshold=0.1))
    assert len(model.prompts) == 3
    assert model.n_encoded == 1


def test_english_only_models() -> None:
    tokenizer = read_tokenizer(tokenizer_json(), is_multilingual=False)

    def script(window: int, context: tuple[int, ...]) -> Mapping[int, float]:
        plan = [BEGIN, *A, BEGIN + 20]
        n_said = len(context) - 1
        return {plan[n_said] if n_said < len(plan) else TOKENIZER.eot: 20.0}

    for language in (None, "en", "English"):
        result = transcript([], 1000, FakeModel(script), tokenizer, language=language)
        assert [s.text for s in result] == [" the water"]
        assert result.language == "en"
        assert result.language_probability is None


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({"language": "de"}, "^language: this model is English-only; 'de' is not used$"),
        ({"task": "translate"}, "^task: this model is English-only and cannot translate$"),
        ({"multilingual": True}, "^multilingual: this model is English-only; True is not used$"),
    ],
)
def test_english_only_models_go_on_in_english(options: dict[str, Any], warning: str) -> None:
    tokenizer = read_tokenizer(tokenizer_json(), is_multilingual=False)
    model = FakeModel(lambda window, context: {TOKENIZER.eot: 20.0})
    with pytest.warns(UserWarning, match=warning):
        result = transcript([], 1000, model, tokenizer, **options)
    list(result)
    assert result.language == "en"
    assert model.prompts == [(tokenizer.sot,)]


def test_language_names_become_codes() -> None:
    assert transcript([], language="Japanese").language == "ja"


def test_windows_are_sampled_by_their_position() -> None:
    model = FakeModel(lambda window, context: dict.fromkeys(range(256, 512), 30.0))
    options = {"temperature": 1.0, "sample_len": 6, "logprob_threshold": None}
    first = [s.tokens for s in transcript([], 6000, model, without_timestamps=True, **options)]
    clipped = transcript([], 6000, model, without_timestamps=True, clip_timestamps="30", **options)
    assert [s.tokens for s in clipped] == first[1:]
    assert first[0] != first[1]


def test_models_with_short_windows() -> None:
    model = FakeModel(says([BEGIN, *A, BEGIN + 100]), n_audio_ctx=500)
    features = FakeFeatures(2500)
    options = TranscribeOptions(language="en", temperature=0.0)
    segments = list(begin_transcript(model, TOKENIZER, features, options))
    assert features.asked == [(0, 1000), (1000, 1000), (2000, 500)]
    assert [(s.start, s.end) for s in segments] == [(0, 2), (10, 12), (20, 22)]


def test_what_a_model_cannot_do() -> None:
    long = FakeModel(says([]), n_audio_ctx=3000)
    with pytest.raises(ModelError, match="n_audio_ctx: windows of 3000 states are longer"):
        transcript([], model=long)
    with pytest.raises(OptionError, match="sample_len: must be at most 59 with word_timestamps"):
        transcript([], word_timestamps=True, sample_len=60)
    transcript([], word_timestamps=True, sample_len=59)
    transcript([], sample_len=60)


def test_translated_words_come_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="word_timestamps: times of translated words"):
        transcript([], word_timestamps=True, task="translate")
