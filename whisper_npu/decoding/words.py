"""Words of segments: punctuation joined to words, times made plausible, words dealt to segments.

The alignment stretches words over pauses; the limits here, from the median length of a word, are
openai-whisper's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from whisper_npu.audio import FRAMES_PER_SECOND
from whisper_npu.decoding.protocols import Aligner
from whisper_npu.decoding.timing import Heads, WordTiming, find_alignment
from whisper_npu.results import Segment, Word
from whisper_npu.text.tokenizer import Tokenizer

_SENTENCE_ENDS = ".。!！?？"
_LONGEST_MEDIAN = 0.7  # seconds


@dataclass(frozen=True)
class WordSettings:
    """What finding words needs beside the window: heads to follow, punctuation to join."""

    heads: Heads
    prepend_punctuations: str
    append_punctuations: str


def add_word_timestamps(
    segments: Sequence[Segment],
    aligner: Aligner,
    tokenizer: Tokenizer,
    num_frames: int,
    settings: WordSettings,
    last_speech: float,
) -> list[Segment]:
    """The segments of one window with their words, and with starts and ends moved to these.

    ``num_frames`` are the window's mel frames; ``last_speech`` is when the last word before the
    window ended, in seconds.
    """
    texts = [[token for token in s.tokens if token < tokenizer.eot] for s in segments]
    tokens = [token for text in texts for token in text]
    alignment = find_alignment(aligner, tokenizer, tokens, num_frames, settings.heads)
    median = median_duration(alignment)
    if median is not None:
        _shorten_at_sentence_ends(alignment, 2 * median)
    merge_punctuations(alignment, settings.prepend_punctuations, settings.append_punctuations)

    timed = []
    remaining = iter(alignment)
    for segment, text in zip(segments, texts, strict=True):
        words = _take_words(remaining, len(text), segment.seek / FRAMES_PER_SECOND)
        if words:
            segment = _fit(segment, words, median or 0.0, last_speech)
            last_speech = segment.end
        timed.append(replace(segment, words=tuple(_word(word) for word in words)))
    return timed


def median_duration(alignment: Sequence[WordTiming]) -> float | None:
    """Median length of words in seconds, 0.7 at most; None if no word has a length."""
    durations = np.array([word.end - word.start for word in alignment])
    durations = durations[durations != 0]
    return min(_LONGEST_MEDIAN, float(np.median(durations))) if len(durations) else None


def _shorten_at_sentence_ends(alignment: Sequence[WordTiming], longest: float) -> None:
    # A pause between sentences is given to the mark that ends one or the word that begins one.
    for previous, word in itertools.pairwise(alignment):
        if word.end - word.start > longest:
            if word.word in _SENTENCE_ENDS:
                word.end = word.start + longest
            elif previous.word in _SENTENCE_ENDS:
                word.start = word.end - longest


def merge_punctuations(alignment: Sequence[WordTiming], prepended: str, appended: str) -> None:
    """Join punctuation to the word after it or before it, in place; what is joined is left empty.

    Times stay those of the word: the punctuation's own are dropped.
    """
    if not alignment:
        return
    following = alignment[-1]
    for word in reversed(alignment[:-1]):
        if word.word.startswith(" ") and word.word.strip() in prepended:
            following.word = word.word + following.word
            following.tokens = word.tokens + following.tokens
            word.word, word.tokens = "", []
        else:
            following = word

    previous = alignment[0]
    for word in alignment[1:]:
        if not previous.word.endswith(" ") and word.word in appended:
            previous.word = previous.word + word.word
            previous.tokens = previous.tokens + word.tokens
            word.word, word.tokens = "", []
        else:
            previous = word


def _take_words(remaining: Iterator[WordTiming], n_tokens: int, offset: float) -> list[WordTiming]:
    """The next words, up to ``n_tokens`` tokens, in seconds from the start of the file."""
    words = []
    taken = 0
    while taken < n_tokens and (word := next(remaining, None)) is not None:
        taken += len(word.tokens)
        if word.word:
            start, end = (max(0.0, round(offset + t, 2)) for t in (word.start, word.end))
            words.append(replace(word, start=start, end=end))
    return words


def _fit(
    segment: Segment, words: Sequence[WordTiming], median: float, last_speech: float
) -> Segment:
    """Shorten the words at the ends of a segment, in place, and fit the segment to them."""
    longest = 2 * median
    first, last = words[0], words[-1]
    second = words[1] if len(words) > 1 else None
    stretched = first.end - first.start > longest or (
        second is not None and second.end - first.start > 2 * longest
    )
    if first.end - last_speech > 4 * median and stretched:
        # The first word after a pause has been given a part of it.
        if second is not None and second.end - second.start > longest:
            first.end = second.start = second.end - longest
        first.start = max(0.0, first.end - longest)

    # The segment's own times are better than those of a word that reaches far beyond them.
    start, end = segment.start, segment.end
    if start < first.end and start - 0.5 > first.start:
        first.start = max(0.0, min(first.end - median, start))
    else:
        start = first.start
    if end > last.start and end + 0.5 < last.end:
        last.end = max(last.start + median, end)
    else:
        end = last.end
    return replace(segment, start=start, end=end)


def _word(timing: WordTiming) -> Word:
    return Word(timing.word, timing.start, timing.end, timing.probability)
