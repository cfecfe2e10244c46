"""Transcribing a file: windows of 30 s, each starting where the one before it stopped being sure.

The rules are openai-whisper's: where a window ends, when it is decoded again at a higher
temperature, when it is silence, what text is given as the prompt of the next one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from whisper_npu.audio import FRAMES_PER_SECOND, N_FRAMES, TOKENS_PER_SECOND
from whisper_npu.decoding.options import DecodingResult, TranscribeOptions
from whisper_npu.decoding.protocols import Features, Model, Session
from whisper_npu.decoding.silence import Span, first_hallucination, leading_silence
from whisper_npu.decoding.task import decode_session, detect_session_language
from whisper_npu.decoding.timing import Heads, alignment_heads
from whisper_npu.decoding.words import WordSettings, add_word_timestamps
from whisper_npu.errors import ModelError, OptionError
from whisper_npu.ops.arrays import F32
from whisper_npu.results import Segment
from whisper_npu.tokenizer import Tokenizer

_FRAMES_PER_TOKEN = FRAMES_PER_SECOND // TOKENS_PER_SECOND
_SECONDS_PER_TOKEN = 1 / TOKENS_PER_SECOND

# Text that was sampled at a higher temperature is not given to the next window.
_PROMPT_RESET_TEMPERATURE = 0.5


def transcribe_windows(
    model: Model,
    tokenizer: Tokenizer,
    features: Features,
    options: TranscribeOptions,
    heads: Heads | None = None,
) -> Transcript:
    """Begin to transcribe a file: its language is known on return, its segments as they come.

    ``heads`` are the decoder's alignment heads, for word timestamps (see
    :func:`~whisper_npu.decoding.timing.alignment_heads`; None: those of a model that names none).
    Raises OptionError if an option asks for what the model does not have, and ModelError if the
    model's windows are longer than 30 s.
    """
    dims = model.dims
    if dims.n_frames > N_FRAMES:
        raise ModelError(
            f"n_audio_ctx: windows of {dims.n_audio_ctx} states are longer than 30 seconds"
        )
    if options.word_timestamps:
        # The alignment needs the text and the tokens around it in one context.
        room = dims.n_text_ctx - len(tokenizer.sot_sequence) - 2
        if (options.sample_len or 0) > room:
            raise OptionError(f"sample_len: must be at most {room} with word_timestamps")
        if options.task == "translate":
            warnings.warn(
                "word_timestamps: times of translated words are not reliable", stacklevel=2
            )
    return Transcript(model, tokenizer, features, options, heads or alignment_heads({}, dims))


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


class Transcript(Iterator[Segment]):
    """A transcription in progress: an iterator over the segments, which it decodes as it goes.

    ``language`` is known from the start; ``language_probs`` are the probabilities of all
    languages by code if it was detected, else None. ``seek`` is the position in mel frames, out
    of ``n_frames``. ``text`` is the text so far.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        features: Features,
        options: TranscribeOptions,
        heads: Heads,
    ) -> None:
        self._model, self._features, self._options = model, features, options
        self._window_frames = model.dims.n_frames
        self._encoded: tuple[F32, F32] | None = None
        self.n_frames = features.n_frames
        self.language_probs: dict[str, float] | None = None
        language = options.language
        if language is None and tokenizer.is_multilingual:
            language = self._detect_language(tokenizer)
        self._tokenizer = tokenizer.for_task(language, options.task)
        self.language = self._tokenizer.language or "en"
        self._words = WordSettings(heads, options.prepend_punctuations, options.append_punctuations)
        prompt = options.initial_prompt
        self._initial_prompt = [] if prompt is None else tokenizer.encode(" " + prompt.strip())
        # All tokens of segments so far, after the initial prompt, and where the next prompt begins.
        self._tokens = list(self._initial_prompt)
        self._prompt_begin = 0
        self._last_speech = 0.0
        self._n_segments = 0
        self.seek = 0
        self._windows = self._decode_clips()
        self._pending: list[Segment] = []

    @property
    def text(self) -> str:
        # Decoded as a whole: a character may begin in one segment and end in the next.
        return self._tokenizer.decode(self._tokens[len(self._initial_prompt) :])

    def __next__(self) -> Segment:
        while not self._pending:
            self._pending = next(self._windows)
        return self._pending.pop(0)

    def windows(self) -> Iterator[list[Segment]]:
        """The segments of one window after the other; those of silent windows are none."""
        return self._windows

    def _detect_language(self, tokenizer: Tokenizer) -> str:
        session = self._open(self._features.opening_window(), self._group)
        _, (self.language_probs,) = detect_session_language(session, tokenizer)
        return max(self.language_probs, key=self.language_probs.__getitem__)

    @property
    def _group(self) -> int:
        return self._options.decoding(self._options.temperatures[0], None, ()).group

    def _open(self, features: F32, group: int) -> Session:  # [n_mels, N_FRAMES]
        """A decoder session on a window; the latest window is not encoded again."""
        if self._encoded is None or not np.array_equal(features, self._encoded[0]):
            states = self._model.encode(features[None, :, : self._window_frames])
            self._encoded = features, states
        return self._model.decoder(self._encoded[1], group)

    def _decode_clips(self) -> Iterator[list[Segment]]:
        for start, end in self._clips():
            self.seek = start
            while self.seek < end:
                window = Window(self.seek, min(self._window_frames, end - self.seek))
                segments = self._decode_window(window)
                # openai-whisper would decode such a window for ever.
                if self.seek <= window.seek:
                    self.seek = window.seek + window.size
                yield segments

    def _clips(self) -> list[tuple[int, int]]:
        """Start and end of the clips in mel frames, within the audio."""
        points = [round(s * FRAMES_PER_SECOND) for s in self._options.clip_seconds()] or [0]
        if len(points) % 2 == 1:
            points.append(self.n_frames)
        ends = [min(end, self.n_frames) for end in points[1::2]]
        return list(zip(points[::2], ends, strict=True))

    def _decode_window(self, window: Window) -> list[Segment]:
        """Decode one window, move ``seek``, and take the segments into the transcript."""
        result, session = self._decode_with_fallback(window)
        if self._is_silent(result):
            self.seek = window.seek + window.size
            return []
        cut = cut_segments(result, window, self._tokenizer)
        self.seek = window.seek + cut.advance
        segments = cut.segments
        if self._options.word_timestamps:
            segments = add_word_timestamps(
                segments, session, self._tokenizer, window.size, self._words, self._last_speech
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
        segments = [
            replace(_without_empty_text(segment), id=id)
            for id, segment in enumerate(segments, self._n_segments)
        ]
        self._n_segments += len(segments)
        self._tokens += [token for segment in segments for token in segment.tokens]
        hot = result.temperature > _PROMPT_RESET_TEMPERATURE
        if hot or not self._options.condition_on_previous_text:
            self._prompt_begin = len(self._tokens)
        return segments

    def _decode_with_fallback(self, window: Window) -> tuple[DecodingResult, Session]:
        """Decode at one temperature after the other until a result will do, or take the last."""
        features = self._features.window(window.seek, window.size)
        prompt = self._prompt()
        for temperature in self._options.temperatures:
            options = self._options.decoding(temperature, self.language, prompt)
            session = self._open(features, options.group)
            (result,) = decode_session(
                session, self._tokenizer, self._model.dims, options, [window.seek]
            )
            if not self._has_failed(result):
                break
        return result, session

    def _prompt(self) -> list[int]:
        """The tokens before the window's start of transcript; decoding cuts them to fit."""
        if not self._options.carry_initial_prompt:
            return self._tokens[self._prompt_begin :]
        n_initial = len(self._initial_prompt)
        room = self._model.dims.n_text_ctx // 2 - 1 - n_initial
        previous = self._tokens[max(n_initial, self._prompt_begin) :]
        return self._initial_prompt + (previous[-room:] if room > 0 else [])

    def _has_failed(self, result: DecodingResult) -> bool:
        options = self._options
        repetitive = (
            options.compression_ratio_threshold is not None
            and result.compression_ratio > options.compression_ratio_threshold
        )
        improbable = (
            options.logprob_threshold is not None and result.avg_logprob < options.logprob_threshold
        )
        # Improbable text over silence is left out, not decoded again.
        silent = (
            options.no_speech_threshold is not None
            and result.no_speech_prob > options.no_speech_threshold
        )
        return (improbable or repetitive) and not (improbable and silent)

    def _is_silent(self, result: DecodingResult) -> bool:
        options = self._options
        if options.no_speech_threshold is None:
            return False
        probable = (
            options.logprob_threshold is not None and result.avg_logprob > options.logprob_threshold
        )
        return result.no_speech_prob > options.no_speech_threshold and not probable

    def _skip_hallucinations(
        self, window: Window, cut: Cut, segments: list[Segment], threshold: float
    ) -> list[Segment] | None:
        """Move ``seek`` over silence. Returns the segments that stay, or None if the window is to
        be decoded again from there."""
        full_end = (window.seek + self._window_frames) / FRAMES_PER_SECOND
        span = Span(window.start, window.start + window.duration, full_end)
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
        if self.n_frames / FRAMES_PER_SECOND - hallucination.end < threshold:
            self.seek = self.n_frames
        return segments[:index]


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
