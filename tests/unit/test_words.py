"""Words of segments: punctuation, implausible lengths, and which segment a word belongs to."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.unit.decoding_fakes import small_tokenizer
from whisper_npu.decoding import words
from whisper_npu.decoding.options import APPEND_PUNCTUATIONS, PREPEND_PUNCTUATIONS
from whisper_npu.decoding.timing import WordTiming
from whisper_npu.decoding.words import (
    WordSettings,
    add_word_timestamps,
    median_duration,
    merge_punctuations,
)
from whisper_npu.results import Segment

TOKENIZER = small_tokenizer()
SETTINGS = WordSettings([], PREPEND_PUNCTUATIONS, APPEND_PUNCTUATIONS)


def timing(word: str, start: float, end: float, n_tokens: int = 1) -> WordTiming:
    return WordTiming(word, [1] * n_tokens, start, end, 0.9)


def segment(start: float, end: float, n_tokens: int, seek: int = 0) -> Segment:
    begin = TOKENIZER.timestamp_begin
    tokens = (begin, *[1] * n_tokens, begin + 9)
    return Segment(0, seek, start, end, "x", tokens, 0.0, -0.5, 1.0, 0.1)


def merged(spoken: Sequence[str]) -> list[str]:
    alignment = [timing(word, i, i + 1) for i, word in enumerate(spoken)]
    merge_punctuations(alignment, PREPEND_PUNCTUATIONS, APPEND_PUNCTUATIONS)
    assert all(bool(w.tokens) == bool(w.word) for w in alignment)
    assert sum(len(w.tokens) for w in alignment) == len(spoken)
    return [w.word for w in alignment]


def test_punctuation_joins_its_word() -> None:
    assert merged([" Hi", ",", " you", "!"]) == [" Hi,", "", " you!", ""]
    assert merged([' "', "Hi", '"', "."]) == ["", ' "Hi".', "", ""]
    assert merged([" a", " (", " [", "b", "]", ")"]) == [" a", "", "", " ( [b])", "", ""]
    assert merged([" a", " b"]) == [" a", " b"]
    assert merged(["."]) == ["."]
    assert merged([]) == []
    assert merged([" a", "。", " -", " b"]) == [" a。", "", "", " - b"]


def test_median_duration() -> None:
    assert median_duration([]) is None
    assert median_duration([timing("a", 1, 1)]) is None
    assert median_duration([timing("a", 0, 0.2), timing("b", 1, 1), timing("c", 1, 1.4)]) == (
        pytest.approx(0.3)
    )
    assert median_duration([timing("a", 0, 5)]) == 0.7


def timed(
    monkeypatch: pytest.MonkeyPatch,
    alignment: Sequence[WordTiming],
    segments: Sequence[Segment],
    last_speech: float = 0.0,
) -> list[Segment]:
    monkeypatch.setattr(words, "find_alignment", lambda *args: copy.deepcopy(list(alignment)))
    return add_word_timestamps(
        segments,
        None,
        TOKENIZER,
        3000,
        SETTINGS,
        last_speech,  # type: ignore[arg-type]
    )


def spans(segment: Segment) -> list[tuple[str, float, float]]:
    return [(w.word, w.start, w.end) for w in segment.words or ()]


def test_words_go_to_the_segments_of_their_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    alignment = [
        timing(" one", 0.1, 0.4, 2),
        timing(",", 0.4, 0.5),
        timing(" two", 0.6, 0.9),
        timing(" three", 1.0, 1.3),
    ]
    first, second = timed(monkeypatch, alignment, [segment(0, 1, 4), segment(1, 2, 1)])
    assert spans(first) == [(" one,", 0.1, 0.4), (" two", 0.6, 0.9)]
    assert spans(second) == [(" three", 1.0, 1.3)]
    assert (first.start, first.end, second.start, second.end) == (0.1, 0.9, 1.0, 1.3)


def test_times_are_those_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    alignment = [timing(" one", 0.1, 0.4)]
    (result,) = timed(monkeypatch, alignment, [segment(12.5, 13, 1, seek=1234)], 12.0)
    assert spans(result) == [(" one", 12.44, 12.74)]


def test_segments_without_words(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = segment(0, 1, 0)
    (result,) = timed(monkeypatch, [], [empty])
    assert result == Segment(**{**vars(empty), "words": ()})
    assert timed(monkeypatch, [], []) == []


def test_times_are_not_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    (result,) = timed(monkeypatch, [timing(" one", -0.02, -0.02)], [segment(0, 1, 1)])
    assert spans(result) == [(" one", 0.0, 0.0)]


SHORT = [timing(" a", i / 5, (i + 1) / 5) for i in range(5)]  # median 0.2


def test_pauses_at_sentence_ends_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    # The mark gets twice the median, and the word after a mark keeps its end.
    alignment = [*SHORT, timing("!", 1.0, 3.0), timing(" b", 3.0, 5.0)]
    monkeypatch.setattr(words, "merge_punctuations", lambda *args: None)
    (result,) = timed(monkeypatch, alignment, [segment(0, 5, 7)])
    assert spans(result)[5:] == [("!", 1.0, 1.4), (" b", 4.6, 5.0)]


def test_the_first_word_after_a_pause_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    alignment = [timing(" b", 2.0, 5.0), *(timing(w.word, w.start + 5, w.end + 5) for w in SHORT)]
    (result,) = timed(monkeypatch, alignment, [segment(4.5, 6, 6)])
    assert spans(result)[0] == (" b", 4.6, 5.0)
    assert result.start == 4.6


def test_the_first_two_words_share_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    alignment = [
        timing(" b", 2.0, 3.0),
        timing(" c", 3.0, 5.0),
        *(timing(w.word, w.start + 5, w.end + 5) for w in SHORT),
    ]
    (result,) = timed(monkeypatch, alignment, [segment(4, 6, 7)])
    (_, start, end), (_, next_start, next_end) = spans(result)[:2]
    assert (start, end, next_start, next_end) == pytest.approx((4.2, 4.6, 4.6, 5.0))


def test_two_words_that_are_long_together_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    alignment = [
        timing(" b", 2.0, 2.3),
        timing(" c", 2.3, 3.0),
        *(timing(w.word, w.start + 3, w.end + 3) for w in SHORT),
    ]
    (result,) = timed(monkeypatch, alignment, [segment(2, 4, 7)])
    (_, start, end), (_, next_start, next_end) = spans(result)[:2]
    assert (start, end, next_start, next_end) == pytest.approx((2.2, 2.6, 2.6, 3.0))


def test_a_long_word_without_a_pause_before_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    alignment = [*SHORT, timing(" b", 1.0, 1.7)]
    _, second = timed(monkeypatch, alignment, [segment(0, 1, 5), segment(1, 2, 1)])
    assert spans(second) == [(" b", 1.0, 1.7)]


def test_segments_follow_words_that_differ_little(monkeypatch: pytest.MonkeyPatch) -> None:
    alignment = [*SHORT[:4], timing(" b", 0.8, 1.2)]
    (result,) = timed(monkeypatch, alignment, [segment(0.1, 0.9, 5)])
    assert (result.start, result.end) == (0.0, 1.2)
    assert spans(result) == [(w.word, w.start, w.end) for w in alignment]


def test_the_segments_own_times_limit_long_words(monkeypatch: pytest.MonkeyPatch) -> None:
    middle = [timing(" a", 1.0 + i / 5, 1.2 + i / 5) for i in range(7)]
    alignment = [timing(" b", 0.0, 1.0), *middle, timing(" c", 2.4, 5.0)]
    (result,) = timed(monkeypatch, alignment, [segment(0.7, 3.0, 9)], last_speech=0.9)
    assert spans(result)[0] == (" b", 0.7, 1.0)
    assert spans(result)[-1] == (" c", 2.4, 3.0)
    assert (result.start, result.end) == (0.7, 3.0)


@pytest.mark.reference
def test_words_are_openais(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = pytest.importorskip("whisper.timing")
    random = np.random.RandomState(0)
    spoken = [" a", " be", "c", ".", ",", ' "', "。", " -", "!", " (", ")", " ", "d"]

    for _ in range(400):
        counts = random.randint(0, 6, size=random.randint(1, 5))
        lengths = random.choice([0, 2, 10, 20, 60, 150], size=200) / 50
        bounds = np.concatenate([[0], lengths.cumsum()])
        alignment: list[Any] = []
        while sum(len(w.tokens) for w in alignment) < counts.sum():
            at = len(alignment)
            word = spoken[random.randint(len(spoken))]
            tokens = [1] * random.randint(1, 3)
            alignment.append(
                WordTiming(word, tokens, float(bounds[at]), float(bounds[at + 1]), 0.5)
            )
        seek = int(random.randint(0, 5000))
        ends = np.sort(random.random_sample(2 * len(counts)) * 10).round(2) + seek / 100
        segments = [
            segment(float(ends[2 * i]), float(ends[2 * i + 1]), int(n), seek)
            for i, n in enumerate(counts)
        ]
        last_speech = float(random.random_sample() * (seek / 100 + 1))

        found = timed(monkeypatch, alignment, segments, last_speech)
        expected = [s.to_dict() for s in segments]
        monkeypatch.setattr(
            theirs,
            "find_alignment",
            lambda *args, words=alignment, **kwargs: [
                theirs.WordTiming(**vars(w)) for w in copy.deepcopy(words)
            ],
        )
        theirs.add_word_timestamps(
            segments=expected,
            model=None,
            tokenizer=TOKENIZER,
            mel=None,
            num_frames=3000,
            last_speech_timestamp=last_speech,
        )
        for ours, reference in zip(found, expected, strict=True):
            assert (ours.start, ours.end) == (reference["start"], reference["end"])
            assert spans(ours) == [(w["word"], w["start"], w["end"]) for w in reference["words"]]
