"""Times that are given out: none beyond the audio, and no end before its start.

The model is free to say that its text ends where the window of 30 s does, and to time the words of
a short window beyond its audio.
"""

from __future__ import annotations

import math
from dataclasses import replace

from whisper_npu.results import Segment


def last_time(duration: float) -> float:
    """The latest time, in seconds, of audio of this length: a whole millisecond, so that it is not
    rounded up where it is written."""
    return math.floor(duration * 1000) / 1000


def within(segment: Segment, limit: float) -> Segment:
    """A segment, and its words, without times beyond ``limit`` seconds or an end before its start.

    What lies beyond it altogether begins and ends there.
    """
    words = segment.words
    if words is not None:
        words = tuple(
            replace(word, start=start, end=end)
            for word in words
            for start, end in [_within(word.start, word.end, limit)]
        )
    start, end = _within(segment.start, segment.end, limit)
    return replace(segment, start=start, end=end, words=words)


def _within(start: float, end: float, limit: float) -> tuple[float, float]:
    start = min(start, limit)
    return start, min(max(start, end), limit)
