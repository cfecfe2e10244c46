"""What word timestamps change in the loop over windows: where they begin, what is skipped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.unit.decoding_fakes import seeks, small_tokenizer, transcript
from whisper_npu.decoding import chain, words
from whisper_npu.decoding.timing import WordTiming
from whisper_npu.results import Segment

TOKENIZER = small_tokenizer()
BEGIN = TOKENIZER.timestamp_begin
A, B = TOKENIZER.encode(" the water"), TOKENIZER.encode(" and the")


Plan = Callable[[int], Sequence[int]] | Sequence[int]

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


def test_words_are_told_when_speech_ended_before_their_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[float] = []
    add = chain.add_word_timestamps

    def add_words(*args: Any) -> list[Segment]:
        told.append(args[-1])
        return add(*args)

    monkeypatch.setattr(chain, "add_word_timestamps", add_words)
    aligned(monkeypatch, [(0.5, 1.0, 0.9), (2.4, 2.9, 0.9)])
    plan = [BEGIN, A[0], BEGIN + 100, BEGIN + 100, B[0], BEGIN + 145]
    result = transcript(plan, 9000, word_timestamps=True)
    list(result)
    assert [seek for seek, _ in seeks(result)] == [0, 3000, 6000]
    assert told == [0.0, 2.9, 32.9]
