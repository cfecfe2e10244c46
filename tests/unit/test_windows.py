"""The loop over windows: where they begin, when they are tried again, their prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from tests.unit.decoding_fakes import (
    FakeFeatures,
    FakeModel,
    read_tokenizer,
    says,
    small_tokenizer,
    tokenizer_json,
)
from whisper_npu.decoding import windows, words
from whisper_npu.decoding.options import DecodingResult, TranscribeOptions
from whisper_npu.decoding.timing import WordTiming
from whisper_npu.decoding.windows import Transcript, transcribe_windows
from whisper_npu.errors import ModelError, OptionError
from whisper_npu.tokenizer import Tokenizer

TOKENIZER = small_tokenizer()
BEGIN = TOKENIZER.timestamp_begin
A, B = TOKENIZER.encode(" the water"), TOKENIZER.encode(" and the")

Plan = Callable[[int], Sequence[int]] | Sequence[int]


def transcript(
    plan: Plan,
    n_frames: int = 3000,
    model: FakeModel | None = None,
    tokenizer: Tokenizer = TOKENIZER,
    **options: Any,
) -> Transcript:
    options = {"language": "en", "temperature": 0.0, **options}
    model = model or FakeModel(says(plan))
    return transcribe_windows(
        model, tokenizer, FakeFeatures(n_frames), TranscribeOptions(**options)
    )


def seeks(result: Transcript) -> list[tuple[int, int]]:
    """Position and size of the windows that were decoded."""
    features = result._features
    assert isinstance(features, FakeFeatures)
    return features.asked


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
    monkeypatch.setattr(windows, "decode_session", lambda *args: [stuck(args[-1][0])])
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
    with pytest.raises(OptionError, match="language: this model is English-only"):
        transcript([], 1000, tokenizer=tokenizer, language="de")


def test_language_names_become_codes() -> None:
    assert transcript([], language="Japanese").language == "ja"


# Prompts. Every window says A in one segment of 30 s.

SOT = TOKENIZER.sot_sequence
WINDOW = [BEGIN, *A, BEGIN + 100]


def prompts(n_windows: int = 3, **options: Any) -> list[tuple[int, ...]]:
    model = FakeModel(says(WINDOW))
    list(transcript([], 3000 * n_windows, model, **options))
    # What is between <|startofprev|> and the start of the transcript.
    return [prompt[1 : -len(SOT)] for prompt in model.prompts]


def test_the_text_so_far_is_the_prompt() -> None:
    assert prompts() == [(), tuple(WINDOW), tuple(WINDOW * 2)]
    assert prompts(condition_on_previous_text=False) == [(), (), ()]
    # Half of the context of 64, less <|startofprev|>.
    assert prompts(8)[-1] == tuple((WINDOW * 7)[-31:])


def test_text_of_high_temperature_is_no_prompt() -> None:
    assert prompts(temperature=0.5)[1] != ()
    assert prompts(temperature=0.6)[1:] == [(), ()]


def test_the_initial_prompt_precedes_the_text() -> None:
    start = tuple(TOKENIZER.encode(" the lighthouse"))
    text = "the lighthouse "
    assert prompts(initial_prompt=text) == [start, (*start, *WINDOW), (*start, *WINDOW * 2)]
    assert prompts(initial_prompt=text, condition_on_previous_text=False) == [start, (), ()]
    assert prompts(8, initial_prompt=text)[-1] == tuple((WINDOW * 7)[-31:])


def test_the_initial_prompt_can_be_carried() -> None:
    start = tuple(TOKENIZER.encode(" the lighthouse"))
    options = {"initial_prompt": "the lighthouse", "carry_initial_prompt": True}
    assert prompts(**options) == [start, (*start, *WINDOW), (*start, *WINDOW * 2)]
    assert prompts(**options, condition_on_previous_text=False) == [start] * 3
    assert prompts(8, **options)[-1] == (*start, *(WINDOW * 7)[-(31 - len(start)) :])


@pytest.mark.parametrize("n_tokens", [31, 40])
def test_an_initial_prompt_that_fills_the_context_is_carried_alone(n_tokens: int) -> None:
    text = " ".join(["the"] * n_tokens)
    start = tuple(TOKENIZER.encode(" the") * 31)
    assert prompts(initial_prompt=text, carry_initial_prompt=True) == [start] * 3


def test_the_text_is_without_the_initial_prompt() -> None:
    assert transcript(WINDOW, initial_prompt="the lighthouse").text == ""
    result = transcript(WINDOW, initial_prompt="the lighthouse")
    list(result)
    assert result.text == " the water"


def test_a_character_can_span_segments() -> None:
    lead, *rest = TOKENIZER.encode("\U0001f984")
    plan = [BEGIN, *A, lead, BEGIN + 50, BEGIN + 50, *rest, BEGIN + 100]
    result = transcript(plan, suppress_tokens="")
    assert [s.text for s in result] == [" the water\ufffd", "\ufffd" * len(rest)]
    assert result.text == " the water\U0001f984"


# Fallback and silence: results by temperature.


class Attempts:
    """Replaces decoding: window and temperature decide the outcome, which is kept."""

    def __init__(self, outcome: Callable[[int, float], Mapping[str, float]]) -> None:
        self.outcome = outcome
        self.tried: list[tuple[int, float]] = []

    def __call__(self, session: Any, tokenizer: Any, dims: Any, options: Any, seeks: Any) -> Any:
        self.tried.append((seeks[0], options.temperature))
        good = {"avg_logprob": -0.5, "compression_ratio": 1.0, "no_speech_prob": 0.1}
        values = {**good, **self.outcome(seeks[0], options.temperature)}
        tokens = (BEGIN, *A, BEGIN + 100)
        return [DecodingResult("en", None, tokens, "x", temperature=options.temperature, **values)]


def attempts(
    monkeypatch: pytest.MonkeyPatch,
    outcome: Callable[[int, float], Mapping[str, float]],
    **options: Any,
) -> tuple[list[float], int]:
    """Temperatures tried on one window, and the number of its segments."""
    tried = Attempts(outcome)
    monkeypatch.setattr(windows, "decode_session", tried)
    result = transcript([], **{"temperature": (0.0, 0.2, 0.4), **options})
    n_segments = len(list(result))
    assert result.seek == 3000
    return [t for _, t in tried.tried], n_segments


BAD = {"avg_logprob": -1.5}
LOOP = {"compression_ratio": 3.0}
QUIET = {"no_speech_prob": 0.9}
ONCE, ALL = [0.0], [0.0, 0.2, 0.4]

FALLBACKS = [
    ({}, {}, ONCE, 1),
    (BAD, {}, ALL, 1),
    (LOOP, {}, ALL, 1),
    (QUIET, {}, ONCE, 1),  # the text is probable
    (BAD | QUIET, {}, ONCE, 0),
    (BAD | LOOP | QUIET, {}, ONCE, 0),
    (LOOP | QUIET, {}, ALL, 1),  # silence does not excuse repetition
    (BAD, {"logprob_threshold": None}, ONCE, 1),
    (BAD, {"logprob_threshold": -2.0}, ONCE, 1),
    (LOOP, {"compression_ratio_threshold": None}, ONCE, 1),
    (BAD | QUIET, {"no_speech_threshold": None}, ALL, 1),
    (BAD | QUIET, {"no_speech_threshold": 0.95}, ALL, 1),
    (QUIET, {"logprob_threshold": None}, ONCE, 0),
    ({"avg_logprob": -1.0}, {}, ONCE, 1),
    ({"avg_logprob": -1.0} | QUIET, {}, ONCE, 0),
    ({"compression_ratio": 2.4}, {}, ONCE, 1),
    (BAD | {"no_speech_prob": 0.6}, {}, ALL, 1),
    ({"no_speech_prob": float("nan")} | BAD, {}, ALL, 1),
]


@pytest.mark.parametrize(("outcome", "options", "temperatures", "n_segments"), FALLBACKS)
def test_when_a_window_is_tried_again_and_when_it_is_silence(
    monkeypatch: pytest.MonkeyPatch,
    outcome: Mapping[str, float],
    options: dict[str, Any],
    temperatures: list[float],
    n_segments: int,
) -> None:
    tried = attempts(monkeypatch, lambda window, temperature: outcome, **options)
    assert tried == (temperatures, n_segments)


def test_the_first_good_attempt_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome(window: int, temperature: float) -> Mapping[str, float]:
        return BAD if temperature < 0.2 else {}

    assert attempts(monkeypatch, outcome) == ([0.0, 0.2], 1)


def test_a_silent_window_leaves_the_prompt_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = Attempts(lambda window, t: BAD | QUIET if window == 3000 else {})
    monkeypatch.setattr(windows, "decode_session", tried)
    result = transcript([], 9000, condition_on_previous_text=False, initial_prompt="the river")
    segments = list(result)
    assert [s.id for s in segments] == [0, 1]
    assert [s.seek for s in segments] == [0, 6000]
    assert tried.tried == [(0, 0.0), (3000, 0.0), (6000, 0.0)]


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
    segments = list(transcribe_windows(model, TOKENIZER, features, options))
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


# Words: the alignment is replaced by one word for each token, of given times.


def aligned(monkeypatch: pytest.MonkeyPatch, times: Sequence[tuple[float, float, float]]) -> None:
    """Every window has these words: start, end, probability."""

    def find_alignment(
        session: Any, tokenizer: Any, text_tokens: Sequence[int], num_frames: int, heads: Any
    ) -> list[WordTiming]:
        return [
            WordTiming(tokenizer.decode([token]), [token], *time)
            for token, time in zip(text_tokens, times, strict=False)
        ]

    monkeypatch.setattr(words, "find_alignment", find_alignment)


PAIRED = [BEGIN, A[0], BEGIN + 100, BEGIN + 100, B[0], BEGIN + 300, BEGIN + 300, *A]


def test_the_next_window_begins_after_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    aligned(monkeypatch, [(0.5, 1.0, 0.9), (2.4, 2.9, 0.9)])
    result = transcript(PAIRED, 700, word_timestamps=True)
    first, second, *_ = result
    assert [w.word for s in (first, second) for w in s.words or ()] == [" the", " and"]
    # The segments begin and end with their words.
    assert (first.start, first.end, second.start, second.end) == (0.5, 1.0, 2.4, 2.9)
    assert [seek for seek, _ in seeks(result)] == [0, 290, 580]


def test_segments_without_length_keep_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    aligned(monkeypatch, [(1.0, 1.0, 0.9)])
    (segment,) = transcript([BEGIN, *A[:1], BEGIN + 100], 500, word_timestamps=True)
    assert (segment.start, segment.end) == (1.0, 1.0)
    assert (segment.text, segment.tokens, segment.words) == ("", (), ())


def test_a_single_timestamp_at_the_end_still_ends_the_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aligned(monkeypatch, [(0.5, 1.0, 0.9), (1.0, 1.5, 0.9)])
    result = transcript([BEGIN, *A[:2], BEGIN + 100], 4000, word_timestamps=True)
    list(result)
    assert [seek for seek, _ in seeks(result)] == [0, 3000]


def skipping(
    monkeypatch: pytest.MonkeyPatch,
    plan: Plan,
    times: Sequence[tuple[float, float, float]],
    n_frames: int = 3000,
) -> tuple[list[int], list[tuple[int, float, str]]]:
    """Positions of the windows decoded, and where segments come from, with a threshold of 1 s."""
    aligned(monkeypatch, times)
    result = transcript(plan, n_frames, word_timestamps=True, hallucination_silence_threshold=1.0)
    found = [(s.seek, s.start, s.text) for s in result]
    return [seek for seek, _ in seeks(result)], found


def test_silence_before_an_anomaly_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    # An improbable first word after 12 s: the window is decoded again from there.
    plan = [BEGIN, A[0], BEGIN + 700]
    decoded, found = skipping(monkeypatch, plan, [(12.0, 12.5, 0.01)], 2000)
    assert decoded[:2] == [0, 1200]
    assert found == []


def test_an_anomaly_between_silences_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = [BEGIN, A[0], BEGIN + 50, BEGIN + 500, B[0], BEGIN + 520, BEGIN + 1400]
    times = [(0.2, 0.6, 0.9), (10.0, 10.4, 0.01)]
    decoded, found = skipping(monkeypatch, plan, times)
    assert [segment for segment in found if segment[0] == 0] == [(0, 0.2, " the")]
    # The next window begins where the anomaly was.
    assert decoded[:2] == [0, 1000]


def test_probable_words_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = [BEGIN, A[0], BEGIN + 50, BEGIN + 500, B[0], BEGIN + 520]
    times = [(0.2, 0.6, 0.9), (10.0, 10.4, 0.9)]
    decoded, found = skipping(monkeypatch, plan, times)
    assert found == [(0, 0.2, " the"), (0, 10.0, " and")]
    assert decoded == [0]


def test_after_a_short_rest_the_next_window_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    # The last word ends less than a threshold before 30 s: the window is done.
    plan = [BEGIN, A[0], BEGIN + 1480, BEGIN + 1480, *B]
    decoded, _ = skipping(monkeypatch, plan, [(29.0, 29.5, 0.9)], 6000)
    assert decoded[:2] == [0, 3000]
