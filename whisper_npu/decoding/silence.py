"""Leaving out hallucinations: text that the model made up over silence, told by its words.

Used when ``hallucination_silence_threshold`` is given; the measures are openai-whisper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whisper_npu.audio import FRAMES_PER_SECOND
from whisper_npu.results import Segment, Word

_PUNCTUATION = "\"'“¿([{-\"'.。,，!！?？:：”)]}、"
_WORDS_JUDGED = 8
_NEAR = 2.0  # seconds from a window's end that count as next to silence


@dataclass(frozen=True)
class WindowTimes:
    """A window in seconds: its start, the end of its audio, and where 30 s would end."""

    start: float
    end: float
    full_end: float


def word_anomaly_score(word: Word) -> float:
    """How unlikely a word is to have been spoken: improbable, too short or too long."""
    duration = word.end - word.start
    score = 1.0 if word.probability < 0.15 else 0.0
    if duration < 0.133:
        score += (0.133 - duration) * 15
    if duration > 2.0:
        score += duration - 2.0
    return score


def is_anomalous(segment: Segment | None) -> bool:
    """Whether most of a segment's first words are anomalous; not so without words."""
    if segment is None or not segment.words:
        return False
    words = [w for w in segment.words if w.word not in _PUNCTUATION][:_WORDS_JUDGED]
    score = sum(word_anomaly_score(word) for word in words)
    return score >= 3 or score + 0.01 >= len(words)


def first_with_words(segments: Sequence[Segment]) -> Segment | None:
    return next((segment for segment in segments if segment.words), None)


def leading_silence(segments: Sequence[Segment], span: WindowTimes, threshold: float) -> int | None:
    """Mel frames to skip, if the first words are an anomaly after a pause of over ``threshold``.

    The window is then decoded again from there; None if it stands.
    """
    first = first_with_words(segments)
    if first is None or not is_anomalous(first) or first.start - span.start <= threshold:
        return None
    return round((first.start - span.start) * FRAMES_PER_SECOND)


def first_hallucination(
    segments: Sequence[Segment], span: WindowTimes, threshold: float, last_speech: float
) -> int | None:
    """Index of the first anomalous segment with silence or anomalies on both sides, or None.

    ``last_speech`` is when the last word before the window ended, in seconds.
    """
    for index, segment in enumerate(segments):
        if not segment.words:
            continue
        if is_anomalous(segment):
            following = first_with_words(segments[index + 1 :])
            next_start = following.words[0].start if following and following.words else span.end
            silent_before = (
                segment.start - last_speech > threshold
                or segment.start < threshold
                or segment.start - span.start < _NEAR
            )
            silent_after = (
                next_start - segment.end > threshold
                or is_anomalous(following)
                or span.full_end - segment.end < _NEAR
            )
            if silent_before and silent_after:
                return index
        last_speech = segment.end
    return None
