"""Windows decoded side by side: each as it is alone, in the order of the file."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.support.waiting import wait_for
from tests.unit.decoding_fakes import (
    FakeFeatures,
    FakeModel,
    Levels,
    begin_transcript,
    replace_decoding,
    says,
    seeks,
    small_tokenizer,
    transcript,
)
from tests.unit.random_decoding import random_alignment, random_options, random_result, seeded
from whisper_npu.decoding import words
from whisper_npu.decoding.clips import Clip, cut_at_pauses, find_clips
from whisper_npu.decoding.engine import Window, Work
from whisper_npu.decoding.options import DecodingOptions, DecodingResult, TranscribeOptions
from whisper_npu.decoding.task import Decoding
from whisper_npu.decoding.timing import WordTiming
from whisper_npu.decoding.windows import Transcript
from whisper_npu.results import Segment

TOKENIZER = small_tokenizer()
BEGIN = TOKENIZER.timestamp_begin
A, B = TOKENIZER.encode(" the water"), TOKENIZER.encode(" and the")
SENTENCE = [BEGIN, *A, BEGIN + 100]
CLIPS = "0,10,10,30,30,40,40,45,45,60"
STARTS = [0, 1000, 3000, 4000, 4500]


def batched(plan: Any, n_frames: int = 6000, batch_size: int = 2, **options: Any) -> Transcript:
    chosen = {"condition_on_previous_text": False, "clip_timestamps": CLIPS, **options}
    return transcript(plan, n_frames, batch_size=batch_size, **chosen)


class Chance:
    """Random decoding and alignment; keeps what was decoded, and what was aligned."""

    def __init__(self, trial: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trial = trial
        self.attempts: list[tuple[int, float, tuple[int, ...]]] = []
        self.aligned: list[tuple[int, ...]] = []
        replace_decoding(monkeypatch, self.decode)
        monkeypatch.setattr(words, "find_alignment", self.align)

    def decode(self, seek: int, options: Any, prompt: Sequence[int]) -> DecodingResult:
        attempt = seek, options.temperature, tuple(prompt)
        self.attempts.append(attempt)
        stamped = not options.without_timestamps
        result = random_result((self.trial, *attempt), options.temperature, stamped)
        return DecodingResult(**{**result, "tokens": tuple(result["tokens"])})

    def align(
        self, aligner: Any, tokenizer: Any, tokens: Sequence[int], num_frames: int, heads: Any
    ) -> list[WordTiming]:
        self.aligned.append((round(float(aligner.features[0, 0])), *tokens))
        return random_alignment(tokenizer, tokens, num_frames) if tokens else []


def run(features: FakeFeatures, **options: Any) -> tuple[list[Segment], str]:
    checked = TranscribeOptions.from_keywords(**options)
    model = FakeModel(lambda window, context: {})
    result = begin_transcript(model, TOKENIZER, features, checked)
    return list(result), result.text


def one_by_one(
    features: FakeFeatures, clips: Sequence[Clip], options: Mapping[str, Any]
) -> list[Segment]:
    """The segments of every clip, transcribed alone."""
    segments: list[Segment] = []
    for start, end in clips:
        alone = {**options, "clip_timestamps": [start / 100, end / 100]}
        segments += run(features, **alone, batch_size=1)[0]
    return [replace(segment, id=id) for id, segment in enumerate(segments)]


def test_every_clip_is_what_it_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    n_segments = n_long = n_together = n_at_once = 0
    for trial in range(200):
        chance = seeded("batched", trial)
        n_frames = chance.choice([1, 150, 3000, 3001, 7000, 12000, 12000])
        features = Levels(np.random.RandomState(trial).rand(n_frames).astype(np.float32))
        options = random_options(chance, n_frames)
        del options["condition_on_previous_text"]
        if chance.random() < 0.4:
            points = sorted(chance.randint(0, n_frames) / 100 for _ in range(4))
            options["clip_timestamps"] = points
        checked = TranscribeOptions.from_keywords(**options, batch_size=1)
        clips = list(find_clips(features, checked, 3000))

        alone = Chance(trial, monkeypatch)
        expected = one_by_one(features, clips, options)
        for batch_size in (1, 2, 3, 8):
            together = Chance(trial, monkeypatch)
            with UnderWay(monkeypatch) as under_way:
                segments, text = run(features, **options, batch_size=batch_size)
            assert segments == expected, (batch_size, options)
            assert text == TOKENIZER.decode(t for s in expected for t in s.tokens)
            assert sorted(together.attempts) == sorted(alone.attempts)
            assert sorted(together.aligned) == sorted(alone.aligned)
            assert under_way.most <= batch_size
            n_together += under_way.most == batch_size

        # All clips in one go without batches, but for what that carries from clip to clip, and for
        # what is left of a clip, which is decoded alone there.
        if "initial_prompt" not in options and "word_timestamps" not in options:
            same = [point / 100 for clip in clips for point in clip] or [0, 0]
            options.update(clip_timestamps=same, condition_on_previous_text=False)
            features.asked.clear()
            segments_at_once, _ = run(features, **options)
            if all(size >= 150 or (seek, seek + size) in clips for seek, size in features.asked):
                assert segments_at_once == expected
                n_at_once += 1
        n_segments += len(segments)
        n_long += any(end - start > 3000 for start, end in clips)
    # Enough of what was drawn is worth comparing.
    assert n_segments > 600
    assert n_long > 10
    assert n_together > 250
    assert n_at_once > 20


SPLIT = [BEGIN, *A, BEGIN + 600, BEGIN + 600, *B, BEGIN + 1450, BEGIN + 1450]


@pytest.mark.parametrize("batch_size", [1, 8])
def test_what_is_left_of_a_clip_is_joined_to_the_last_segment(batch_size: int) -> None:
    """1 s that may be speech: the last segment is decoded again with it."""

    def plan(window: int) -> list[int]:
        return SPLIT if window == 0 else [BEGIN, *B, BEGIN + 900]

    features = Levels(np.sin(np.arange(3000)).astype(np.float32))
    options = {"clip_timestamps": "0,30", "language": "en", "temperature": 0.0}
    found = begin(features, plan, **options, batch_size=batch_size)
    assert [(s.seek, s.start, s.end, s.text) for s in found] == [
        (0, 0.0, 12.0, " the water"),
        (1200, 12.0, 30.0, " and the"),
    ]
    assert features.asked == [(0, 3000), (2900, 100), (1200, 1800)]
    # Without batches it is decoded alone, as by openai-whisper.
    features.asked.clear()
    list(begin(features, plan, **options, condition_on_previous_text=False))
    assert features.asked == [(0, 3000), (2900, 100)]


def test_silence_that_is_left_of_a_clip_is_passed_over() -> None:
    features = Levels(np.r_[np.sin(np.arange(2900)), np.zeros(100)].astype(np.float32))
    found = list(begin(features, lambda window: SPLIT, clip_timestamps="0,30", batch_size=2))
    assert [(s.start, s.end) for s in found] == [(0.0, 12.0), (12.0, 29.0)]
    assert features.asked == [(0, 3000), (2900, 100)]


def test_what_is_left_after_silence_is_decoded_with_its_end() -> None:
    """Of a clip of 31 s, of which the first 30 are taken for silence."""
    features = Levels(np.sin(np.arange(3100)).astype(np.float32))
    model = FakeModel(says(lambda window: [BEGIN, *A, BEGIN + 50] if window else [BEGIN]))
    silent = {TOKENIZER.no_speech: 40.0}
    said = model.script
    model.script = lambda window, context: (
        silent if context[-1] == TOKENIZER.sot and not window else said(window, context)
    )
    options = {"clip_timestamps": "0,31", "logprob_threshold": 0.0, "temperature": 0.0}
    checked = TranscribeOptions.from_keywords(language="en", batch_size=2, **options)
    found = list(begin_transcript(model, TOKENIZER, features, checked))
    assert [(s.seek, s.start) for s in found] == [(2950, 29.5)]
    assert features.asked == [(0, 3000), (3000, 100), (2950, 150)]


def test_a_segment_that_is_all_of_its_window_cannot_be_joined() -> None:
    features = Levels(np.sin(np.arange(3000)).astype(np.float32))
    plan = [BEGIN, *A, BEGIN + 1450, BEGIN + 1450]
    found = list(begin(features, lambda window: plan, clip_timestamps="0,30", batch_size=2))
    assert [s.start for s in found][:2] == [0.0, 29.0]


def test_a_clip_that_is_asked_for_may_be_short() -> None:
    features = Levels(np.sin(np.arange(3000)).astype(np.float32))
    (segment,) = begin(features, lambda window: [BEGIN, *A], clip_timestamps="3,4", batch_size=2)
    assert (segment.start, segment.end) == (3.0, 4.0)


@pytest.mark.parametrize("n_frames", [3001, 3100, 3149, 3151, 5000, 6001])
def test_the_last_clip_is_not_short(n_frames: int) -> None:
    """Also where the end is the quietest."""
    features = Levels(np.linspace(1, 0, n_frames).astype(np.float32))
    clips = list(cut_at_pauses(features, 0, 3000))
    assert clips[0][0] == 0
    assert [end for _, end in clips] == [*(start for start, _ in clips[1:]), n_frames]
    assert all(150 <= end - start <= 3000 for start, end in clips)


def begin(
    features: FakeFeatures, plan: Callable[[int], Sequence[int]], **options: Any
) -> Transcript:
    checked = TranscribeOptions.from_keywords(**{"language": "en", "temperature": 0.0, **options})
    return begin_transcript(FakeModel(says(plan)), TOKENIZER, features, checked)


def test_as_many_windows_at_a_time_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for batch_size, expected in ((1, 1), (2, 2), (3, 3), (8, 5)):
        with UnderWay(monkeypatch) as under_way:
            list(batched(SENTENCE, batch_size=batch_size))
        assert under_way.most == expected


class UnderWay:
    """Counts windows that are asked for and not decoded yet."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self._waited_for: set[Work[Decoding]] = set()
        self.most = 0

    def __enter__(self) -> UnderWay:
        self._decode = decode = Window.decode

        def counted(window: Window, make: Any) -> Work[Decoding]:
            work = decode(window, make)
            self._waited_for.add(work)
            # Those whose results are here are over when they are looked at.
            self.most = max(self.most, len(self._waited_for))
            return work

        self._patch.setattr(Window, "decode", counted)
        self._result = result = Work.result

        def looked_at(work: Work[Decoding], timeout: float | None = None) -> Decoding:
            found = result(work, timeout)
            self._waited_for.discard(work)
            return found

        self._patch.setattr(Work, "result", looked_at)
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.setattr(Window, "decode", self._decode)
        self._patch.setattr(Work, "result", self._result)


def unfinished(window: int) -> list[int]:
    """The clip from 10 s on takes four windows, others one."""
    if 1000 <= window < 2500:
        return [BEGIN, *A, BEGIN + 250, BEGIN + 250, *B]
    return SENTENCE


def test_a_clip_that_ends_makes_room_for_another() -> None:
    result = batched(unfinished)
    found = [(s.id, s.seek) for s in result]
    windows = [0, 1000, 1500, 2000, 2500, 3000, 4000, 4500]
    asked = [seek for seek, _ in seeks(result)]
    assert sorted(asked) == windows
    # Two chains go on side by side.
    assert asked[:2] == [0, 1000]
    assert asked.index(3000) < asked.index(2500)
    assert found == list(enumerate(windows))


def test_segments_come_as_soon_as_those_before_them_are_known() -> None:
    result = batched(unfinished)
    n_encoded, positions = [], []
    for segments in result.windows():
        assert len(segments) == 1
        n_encoded.append(len(seeks(result)))
        positions.append(result.seek)
    # Two are under way: the clip after the first may end before the long one does.
    assert all(i < n <= 8 for i, n in enumerate(n_encoded))
    assert n_encoded[0] <= 4
    assert positions == [1000, 1500, 2000, 2500, 3000, 4000, 4500, 6000]
    assert result.text == 8 * " the water"


def test_only_a_batch_is_decoded_ahead() -> None:
    features = FakeFeatures(100 * 3000)
    model = FakeModel(says(SENTENCE))
    options = TranscribeOptions.from_keywords(language="en", temperature=0.0, batch_size=4)
    result = begin_transcript(model, TOKENIZER, features, options)
    assert features.asked == []
    for n in range(1, 20):
        next(result)
        # To cut, and to decode; the next ones were asked for when the first were known.
        assert len(features.asked) <= 2 * (n + 4 * 4)
    assert len(features.asked) >= 2 * 19


def test_windows_that_failed_are_decoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[int, float]] = []

    def decode(seek: int, options: DecodingOptions, prompt: tuple[int, ...]) -> DecodingResult:
        tried.append((seek, options.temperature))
        enough = {0: 0.0, 1000: 0.4, 3000: 0.0, 4000: 0.2, 4500: 9.0}
        return DecodingResult(
            "en",
            tokens=tuple(SENTENCE),
            text=str(seek),
            avg_logprob=-0.5 if options.temperature >= enough[seek] else -2.0,
            no_speech_prob=0.0,
            temperature=options.temperature,
            compression_ratio=1.0,
        )

    replace_decoding(monkeypatch, decode)
    result = batched([], batch_size=5, temperature=(0.0, 0.2, 0.4, 0.6))
    taken = [(0, 0.0), (1000, 0.4), (3000, 0.0), (4000, 0.2), (4500, 0.6)]
    assert [(s.seek, s.temperature) for s in result] == taken
    assert sorted(tried) == [
        (seek, temperature)
        for seek, last in taken
        for temperature in (0.0, 0.2, 0.4, 0.6)
        if temperature <= last
    ]


def test_a_window_is_encoded_once_for_all_temperatures() -> None:
    model = FakeModel(says(SENTENCE))
    temperatures = (0.0, 0.2, 0.4)
    options = {"temperature": temperatures, "compression_ratio_threshold": 0.1}
    list(batched([], model=model, batch_size=3, **options))
    assert len(model.prompts) == 15
    assert model.n_encoded == 5


def random_words(window: int, context: tuple[int, ...]) -> dict[int, float]:
    return dict.fromkeys(range(256, 512), 30.0)


@pytest.mark.parametrize("sampling", [{"temperature": 1.0, "best_of": 3}, {"beam_size": 3}])
def test_samples_and_beams_do_not_depend_on_the_batch(sampling: dict[str, Any]) -> None:
    options = {"sample_len": 6, "logprob_threshold": None, "without_timestamps": True, **sampling}
    found = [
        [s.tokens for s in batched([], model=FakeModel(random_words), batch_size=n, **options)]
        for n in (1, 2, 5)
    ]
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 5
    assert "beam_size" in sampling or len(set(found[0])) == 5


def test_every_clip_begins_with_the_initial_prompt() -> None:
    model = FakeModel(says(unfinished))
    list(batched([], model=model, initial_prompt="the river"))
    prompt = (TOKENIZER.sot_prev, *TOKENIZER.encode(" the river"))
    later = [p for p in model.prompts if p[: len(prompt)] != prompt]
    # The three windows of the long clip after its first.
    assert len(later) == 3
    assert {p[0] for p in later} == {TOKENIZER.sot}
    assert len(model.prompts) == 8

    model = FakeModel(says(unfinished))
    list(batched([], model=model, initial_prompt="the river", carry_initial_prompt=True))
    assert {p[: len(prompt)] for p in model.prompts} == {prompt}
    assert len(model.prompts) == 8


def test_the_language_is_detected_once() -> None:
    def script(window: int, context: tuple[int, ...]) -> Mapping[int, float]:
        if context == (TOKENIZER.sot,):
            return {TOKENIZER.all_language_tokens[1]: 5.0}
        return says(SENTENCE)(window, context)

    model = FakeModel(script)
    result = batched([], model=model, language=None)
    assert result.language == "de"
    assert len(list(result)) == 5
    assert model.prompts.count((TOKENIZER.sot,)) == 1
    german = TOKENIZER.for_task("de", "transcribe").sot_sequence
    assert model.prompts.count(german) == 5


def test_silent_windows_give_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(seek: int, options: DecodingOptions, prompt: tuple[int, ...]) -> DecodingResult:
        sure = DecodingResult("en", None, tuple(SENTENCE), "x", -0.5, 0.0, 0.0, 1.0)
        silent = replace(sure, avg_logprob=-2.0, no_speech_prob=0.9)
        return silent if seek in (0, 4000) else sure

    replace_decoding(monkeypatch, decode)
    assert [(s.id, s.seek) for s in batched([])] == [(0, 1000), (1, 3000), (2, 4500)]


# Clips.


def test_models_with_short_windows() -> None:
    model = FakeModel(says([BEGIN, *A, BEGIN + 20]), n_audio_ctx=500)
    result = batched([], 2500, model=model, clip_timestamps="0")
    assert [s.seek for s in result] == [0, 980, 1960]


def test_recordings_with_nothing_in_them() -> None:
    for options in ({"clip_timestamps": "0"}, {"clip_timestamps": "70,80,90,95"}):
        assert list(batched([], 0, **options)) == []


def test_a_transcription_that_is_dropped_gives_back_its_model() -> None:
    """Without the garbage collector, when the engine's thread has ended."""
    model = FakeModel(says(SENTENCE))
    result = batched([], model=model)
    segments = iter(result)
    next(segments)
    alive = weakref.ref(model)
    gc.collect()
    gc.disable()
    try:
        del model, result, segments
        wait_for(lambda: alive() is None, "the model is kept")
    finally:
        gc.enable()
