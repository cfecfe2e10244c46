"""What counts as a hallucination: words that are improbable, too short or too long."""

from __future__ import annotations

import pytest

from whisper_npu.decoding.silence import (
    WindowTimes,
    first_hallucination,
    is_anomalous,
    leading_silence,
    word_anomaly_score,
)
from whisper_npu.results import Segment, Word

SPAN = WindowTimes(10.0, 40.0, 40.0)


def segment(*words: Word, start: float = 0.0, end: float = 0.0) -> Segment:
    if words:
        start, end = words[0].start, words[-1].end
    return Segment(0, 1000, start, end, "x", (1,), 0.0, -0.5, 1.0, 0.1, words)


def word(start: float, end: float, probability: float = 0.9, text: str = " a") -> Word:
    return Word(text, start, end, probability)


def good(start: float) -> Segment:
    return segment(word(start, start + 0.3), word(start + 0.3, start + 0.6))


def bad(start: float) -> Segment:
    return segment(word(start, start + 0.3, 0.1), word(start + 0.3, start + 0.6, 0.1))


@pytest.mark.parametrize(
    ("spoken", "score"),
    [
        (word(0, 0.5), 0.0),
        (word(0, 0.5, 0.149), 1.0),
        (word(0, 0.5, 0.15), 0.0),
        (word(0, 0.033), 1.5),
        (word(0, 3.5), 1.5),
        (word(0, 3.5, 0.1), 2.5),
    ],
)
def test_scores_of_words(spoken: Word, score: float) -> None:
    assert word_anomaly_score(spoken) == pytest.approx(score)


def test_segments_are_judged_by_their_first_words() -> None:
    fine, odd = word(0, 0.5), word(0, 0.5, 0.1)
    assert not is_anomalous(None)
    assert not is_anomalous(segment())
    assert not is_anomalous(segment(fine))
    assert is_anomalous(segment(odd))
    assert not is_anomalous(segment(odd, fine))
    assert is_anomalous(segment(odd, odd, odd, fine, fine, fine))
    assert not is_anomalous(segment(*[fine] * 8, odd, odd, odd))
    # Punctuation is no word.
    assert is_anomalous(segment(word(0, 0.5, text=","), odd))
    assert is_anomalous(segment(word(0, 0.5, text=",")))


def test_silence_before_an_anomaly() -> None:
    assert leading_silence([bad(12.5)], SPAN, 2.0) == 250
    assert leading_silence([bad(12.0)], SPAN, 2.0) is None
    assert leading_silence([good(12.5)], SPAN, 2.0) is None
    assert leading_silence([segment(start=10, end=12), bad(12.5)], SPAN, 2.0) == 250
    assert leading_silence([good(10.1), bad(12.5)], SPAN, 2.0) is None
    assert leading_silence([], SPAN, 2.0) is None


def hallucination(
    *segments: Segment, last_speech: float = 9.5, span: WindowTimes = SPAN
) -> int | None:
    return first_hallucination(segments, span, 2.0, last_speech)


def test_an_anomaly_between_silences() -> None:
    assert hallucination(good(11), bad(20), good(30)) == 1
    # Speech just before it, or just after it.
    assert hallucination(good(18.5), bad(20), good(30)) is None
    assert hallucination(good(11), bad(20), good(21)) is None
    # More anomalies after it are silence.
    assert hallucination(good(11), bad(20), bad(21), good(30)) == 1
    assert hallucination(good(11), good(20), good(30)) is None


def test_an_anomaly_at_the_edges_of_a_window() -> None:
    assert hallucination(bad(11), good(30)) == 0
    assert hallucination(bad(12.5), good(30), last_speech=12) is None
    assert hallucination(good(36), bad(38)) is None
    assert hallucination(good(30), bad(38)) == 1
    # The audio ends before 30 s are over.
    short = WindowTimes(10.0, 24.0, 40.0)
    assert hallucination(good(11), bad(22.5), span=short) is None
    assert hallucination(good(11), bad(20), span=short) == 1


def test_an_anomaly_at_the_start_of_the_file_follows_silence() -> None:
    start = WindowTimes(0.0, 30.0, 30.0)
    found = [first_hallucination([bad(at), good(20)], start, 5.0, at - 0.5) for at in (4.9, 5.0)]
    assert found == [0, None]


def test_segments_without_words_are_passed_over() -> None:
    empty = segment(start=15, end=19)
    assert hallucination(good(11), empty, bad(20), empty, good(30)) == 2
