"""A chain of windows: each begins where the one before it stopped being sure.

The rules are openai-whisper's: where a window ends, when it is silence, what becomes of its tokens,
what text is given as the prompt of the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from whisper_npu.audio import FRAMES_PER_SECOND, TOKENS_PER_SECOND
from whisper_npu.decoding.clips import Clip
from whisper_npu.decoding.options import DecodingResult, TranscribeOptions
from whisper_npu.decoding.protocols import Aligner
from whisper_npu.decoding.silence import WindowTimes, first_hallucination, leading_silence
from whisper_npu.decoding.words import WordSettings, add_word_timestamps
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.results import Segment
from whisper_npu.text.tokenizer import Tokenizer

_FRAMES_PER_TOKEN = FRAMES_PER_SECOND // TOKENS_PER_SECOND
_SECONDS_PER_TOKEN = 1 / TOKENS_PER_SECOND

# Text that was sampled at a higher temperature is not given to the next window.
_PROMPT_RESET_TEMPERATURE = 0.5


@dataclass(frozen=True)
class Window:
    """A part of a file in mel frames: where it starts and how many frames of audio it has."""

    seek: int
    size: int

    @property
    def start(self) -> float:
        """Seconds from the start of the file."""
        return self.seek / FRAMES_PER_SECOND

    @property
    def duration(self) -> float:
        """Seconds of audio."""
        return self.size / FRAMES_PER_SECOND


@dataclass(frozen=True)
class Cut:
    """A window's tokens, cut into segments, and the mel frames to advance.

    ``open_end`` is False if the text ends with one timestamp: no speech follows it.
    """

    segments: list[Segment]
    advance: int
    open_end: bool


@dataclass(frozen=True)
class ChainSettings:
    """What all chains of a file share; ``n_frames`` is the length of the file.

    ``may_be_speech`` says of a window whether it may hold speech. With a ``batch_size`` what is
    left of a clip, if it has less than ``shortest`` frames, is not decoded alone.
    """

    options: TranscribeOptions
    tokenizer: Tokenizer
    dims: ModelDimensions
    n_frames: int
    initial_prompt: Sequence[int]
    words: WordSettings
    shortest: int
    may_be_speech: Callable[[Window], bool]


class Chain:
    """The windows of some clips, one after the other.

    The loop asks for ``next_window`` and ``prompt``, decodes, and gives the result to ``take``.
    ``seek`` is the position in mel frames.
    """

    def __init__(self, settings: ChainSettings, clips: Iterable[Clip]) -> None:
        self._settings, self._options = settings, settings.options
        self._clips = iter(clips)
        self._end = 0
        # The tokens that precede the next window; an initial prompt that is carried along is not
        # one of them.
        carried = settings.options.carry_initial_prompt
        self._previous = [] if carried else list(settings.initial_prompt)
        self._last_speech = 0.0
        self.seek = 0

    def next_window(self) -> Window | None:
        """The window to decode next, the same until its result is taken; None at the end."""
        while self.seek >= self._end:
            clip = next(self._clips, None)
            if clip is None:
                return None
            self.seek, self._end = clip
        return Window(self.seek, min(self._settings.dims.n_frames, self._end - self.seek))

    def prompt(self) -> list[int]:
        """The tokens before the window's start of transcript; decoding cuts them to fit."""
        if not self._options.carry_initial_prompt:
            return list(self._previous)
        initial = self._settings.initial_prompt
        room = self._settings.dims.n_text_ctx // 2 - 1 - len(initial)
        return [*initial, *(self._previous[-room:] if room > 0 else [])]

    def take(self, window: Window, result: DecodingResult, aligner: Aligner) -> list[Segment]:
        """Move on from a window. Returns its segments, with ids yet to be given.

        ``aligner`` aligns words to the window.
        """
        last_speech = self._last_speech
        segments = self._segments(window, result, aligner)
        # openai-whisper would decode such a window for ever.
        if self.seek <= window.seek:
            self.seek = window.seek + window.size
        left = self._end - self.seek
        if self._options.batch_size is not None and 0 < left < self._settings.shortest:
            kept = self._join_leftover(window, segments)
            if len(kept) < len(segments) and self._options.word_timestamps:
                self._last_speech = _last_end(kept) if kept else last_speech
            return kept
        return segments

    def _join_leftover(self, window: Window, segments: list[Segment]) -> list[Segment]:
        """Decode what is left of the clip together with the last segment, which is given up for it,
        or after a silent window with the end of that. Returns the segments that stay.

        Silence is passed over. What follows a segment that is all of its window cannot be joined.
        """
        if not self._settings.may_be_speech(Window(self.seek, self._end - self.seek)):
            self.seek = self._end
            return segments
        if not segments:
            self.seek = max(window.seek + 1, self._end - self._settings.shortest)
            return segments
        start = round(segments[-1].start * FRAMES_PER_SECOND)
        if start <= window.seek:
            return segments
        self.seek = start
        return segments[:-1]

    def _segments(self, window: Window, result: DecodingResult, aligner: Aligner) -> list[Segment]:
        if _is_silent(result, self._options):
            self.seek = window.seek + window.size
            return []
        tokenizer = self._settings.tokenizer
        if self._options.multilingual:
            tokenizer = tokenizer.for_task(result.language, self._options.task)
        cut = cut_segments(result, window, tokenizer)
        self.seek = window.seek + cut.advance
        segments = cut.segments
        if self._options.word_timestamps:
            segments = add_word_timestamps(
                segments,
                aligner,
                tokenizer,
                window.size,
                self._settings.words,
                self._last_speech,
            )
            if cut.open_end and (end := _last_end(segments)) > window.start:
                self.seek = round(end * FRAMES_PER_SECOND)
            threshold = self._options.hallucination_silence_threshold
            if threshold is not None:
                kept = self._skip_hallucinations(window, cut, segments, threshold)
                if kept is None:
                    return []
                segments = kept
            if segments:
                self._last_speech = _last_end(segments)
        segments = [_without_empty_text(segment) for segment in segments]
        self._previous += [token for segment in segments for token in segment.tokens]
        hot = result.temperature > _PROMPT_RESET_TEMPERATURE
        if hot or not self._options.condition_on_previous_text:
            self._previous = []
        return segments

    def _skip_hallucinations(
        self, window: Window, cut: Cut, segments: list[Segment], threshold: float
    ) -> list[Segment] | None:
        """Move ``seek`` over silence. Returns the segments that stay, or None if the window is to
        be decoded again from there."""
        full_end = (window.seek + self._settings.dims.n_frames) / FRAMES_PER_SECOND
        span = WindowTimes(window.start, window.start + window.duration, full_end)
        end = _last_end(segments)
        if cut.open_end and end > window.start and full_end - end <= threshold:
            self.seek = window.seek + window.size
        silence = leading_silence(segments, span, threshold)
        if silence is not None:
            self.seek = window.seek + silence
            return None
        index = first_hallucination(segments, span, threshold, self._last_speech)
        if index is None:
            return segments
        hallucination = segments[index]
        self.seek = round(max(window.start + 1, hallucination.start) * FRAMES_PER_SECOND)
        n_frames = self._settings.n_frames
        if n_frames / FRAMES_PER_SECOND - hallucination.end < threshold:
            self.seek = n_frames
        return segments[:index]


def _is_silent(result: DecodingResult, options: TranscribeOptions) -> bool:
    if options.no_speech_threshold is None:
        return False
    probable = (
        options.logprob_threshold is not None and result.avg_logprob > options.logprob_threshold
    )
    return result.no_speech_prob > options.no_speech_threshold and not probable


def cut_segments(result: DecodingResult, window: Window, tokenizer: Tokenizer) -> Cut:
    """Cut a window's tokens into segments at its pairs of timestamps.

    After the last pair the text is unfinished: it is dropped, and the next window begins there.
    If a single timestamp ends the text, no speech follows and the next window is the next 30 s.
    Without pairs all tokens are one segment.
    """
    begin = tokenizer.timestamp_begin
    tokens = result.tokens
    is_timestamp = [token >= begin for token in tokens]
    open_end = is_timestamp[-2:] != [False, True]
    bounds = [i for i in range(1, len(tokens)) if is_timestamp[i - 1] and is_timestamp[i]]

    def segment(tokens: Sequence[int], start: float, end: float) -> Segment:
        return Segment(
            id=0,
            seek=window.seek,
            start=window.start + start,
            end=window.start + end,
            text=tokenizer.decode(token for token in tokens if token < tokenizer.eot),
            tokens=tuple(tokens),
            temperature=result.temperature,
            avg_logprob=result.avg_logprob,
            compression_ratio=result.compression_ratio,
            no_speech_prob=result.no_speech_prob,
            language=None if result.language_probs is None else result.language,
        )

    if not bounds:
        last = max((i for i, stamp in enumerate(is_timestamp) if stamp), default=None)
        steps = 0 if last is None else tokens[last] - begin
        duration = steps * _SECONDS_PER_TOKEN if steps else window.duration
        return Cut([segment(tokens, 0.0, duration)], window.size, open_end)
    if not open_end:
        bounds.append(len(tokens))
    runs = [tokens[i:j] for i, j in zip([0, *bounds], bounds, strict=False)]
    segments = [
        segment(run, *((t - begin) * _SECONDS_PER_TOKEN for t in (run[0], run[-1]))) for run in runs
    ]
    last_steps = runs[-1][-1] - begin
    return Cut(segments, last_steps * _FRAMES_PER_TOKEN if open_end else window.size, open_end)


def _last_end(segments: Sequence[Segment]) -> float:
    """When the last word ends, or without words the last segment, in seconds."""
    words = (word.end for segment in reversed(segments) for word in reversed(segment.words or ()))
    return next(words, segments[-1].end)


def _without_empty_text(segment: Segment) -> Segment:
    """A segment without length or text keeps its place but no text, tokens or words."""
    if segment.start == segment.end or not segment.text.strip():
        return replace(segment, text="", tokens=(), words=())
    return segment
