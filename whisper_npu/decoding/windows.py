"""Transcribing a file: the loop over its windows, of which several may be decoded side by side.

Windows that depend on each other are one chain, and the chains are independent of each other. A
whole file is one chain, as in openai-whisper, where each window is given the text before it. With
``batch_size`` every clip is a chain of its own, and windows of that many chains are under way at a
time.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from whisper_npu.audio import N_FRAMES
from whisper_npu.decoding.chain import Chain, ChainSettings
from whisper_npu.decoding.chain import Window as Span
from whisper_npu.decoding.clips import find_clips, shortest_window
from whisper_npu.decoding.engine import Recording, Window, Work
from whisper_npu.decoding.language import Detection, detect_file_language
from whisper_npu.decoding.levels import may_be_speech
from whisper_npu.decoding.options import DecodingOptions, DecodingResult, TranscribeOptions
from whisper_npu.decoding.protocols import Features
from whisper_npu.decoding.task import Decoding, language_probabilities
from whisper_npu.decoding.times import last_time, within
from whisper_npu.decoding.timing import Heads, alignment_heads
from whisper_npu.decoding.words import WordSettings
from whisper_npu.errors import ModelError, OptionError
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.ops.arrays import F32, I16
from whisper_npu.results import Segment
from whisper_npu.text.languages import LANGUAGES, to_language_code
from whisper_npu.text.tokenizer import Tokenizer

# While a chain takes long, those behind it end; of so many times the batch results are kept.
_AHEAD = 4

# A language that is less probable is told with a warning.
_UNSURE = 0.5


def transcribe_windows(
    recording: Recording,
    tokenizer: Tokenizer,
    features: Features,
    options: TranscribeOptions,
    heads: Heads | None = None,
) -> Transcript:
    """Begin to transcribe a file: its language is known on return, its segments as they come.

    ``recording`` has the engine do the work; it is to be closed when the transcript is not needed
    any more. ``heads`` are the decoder's alignment heads, for word timestamps (see
    :func:`~whisper_npu.decoding.timing.alignment_heads`; None: those of a model that names none).
    Raises OptionError if an option asks for what the model does not have, and ModelError if the
    model's windows are longer than 30 s. An English-only model goes on in English, with a warning.
    """
    dims = recording.model.dims
    options = options_for_model(dims, tokenizer, options)
    return Transcript(recording, tokenizer, features, options, heads or alignment_heads({}, dims))


def options_for_model(
    dims: ModelDimensions, tokenizer: Tokenizer, options: TranscribeOptions
) -> TranscribeOptions:
    """The options without what the model does not have. Warns and raises as transcribing does."""
    if dims.n_frames > N_FRAMES:
        raise ModelError(
            f"n_audio_ctx: windows of {dims.n_audio_ctx} states are longer than 30 seconds"
        )
    if not tokenizer.is_multilingual:
        options = _in_english(options)
    if options.word_timestamps:
        # The alignment needs the text and the tokens around it in one context.
        room = dims.n_text_ctx - len(tokenizer.sot_sequence) - 2
        if (options.sample_len or 0) > room:
            raise OptionError(f"sample_len: must be at most {room} with word_timestamps")
        if options.task == "translate":
            warnings.warn(
                "word_timestamps: times of translated words are not reliable", stacklevel=2
            )
    return options


def _in_english(options: TranscribeOptions) -> TranscribeOptions:
    """Options without what an English-only model does not have."""
    if options.language is not None and to_language_code(options.language) != "en":
        warnings.warn(
            f"language: this model is English-only; {options.language!r} is not used", stacklevel=3
        )
    if options.task == "translate":
        warnings.warn("task: this model is English-only and cannot translate", stacklevel=3)
    if options.multilingual:
        warnings.warn("multilingual: this model is English-only; True is not used", stacklevel=3)
    return replace(options, language=None, task="transcribe", multilingual=False)


# Asks for work on a window, and is sent what comes of it; returns the result.
_Attempts = Generator[Work[Any], Any, DecodingResult]


@dataclass(eq=False)
class _Lane:
    """A chain, its window that is under way, and what is known of the windows before but cannot be
    given before earlier chains end: their segments, and the position after each."""

    chain: Chain
    known: deque[tuple[list[Segment], int]] = field(default_factory=deque)
    span: Span | None = None
    window: Window | None = None
    attempts: _Attempts | None = None
    work: Work[Any] | None = None


class Transcript(Iterator[Segment]):
    """A transcription in progress: an iterator over the segments, which it decodes as it goes.

    ``language`` is known from the start; if it was detected ``language_probability`` is its
    probability, and ``language_probs`` are those of all languages by code in the window that it is
    from, else both are None. ``seek`` is the position in mel frames, out of ``n_frames``. ``text``
    is the text so far.
    """

    def __init__(
        self,
        recording: Recording,
        tokenizer: Tokenizer,
        features: Features,
        options: TranscribeOptions,
        heads: Heads,
    ) -> None:
        self._recording, self._dims = recording, recording.model.dims
        recording.make_room(options.batch_size or 1)
        self._features, self._options = features, options
        self._latest: Window | None = None
        self.n_frames = features.n_frames
        self.language_probability: float | None = None
        self.language_probs: Mapping[str, float] | None = None
        language = options.language
        if language is None and tokenizer.is_multilingual:
            detected = self._detect_language(tokenizer)
            language, self.language_probability = detected.language, detected.probability
            self.language_probs = detected.probabilities
        self._tokenizer = tokenizer.for_task(language, options.task)
        self.language = self._tokenizer.language or "en"
        # What has no language is decoded in the one that its window is in.
        self._attempts = options.attempts(None if options.multilingual else self.language)
        prompt = options.initial_prompt
        self._settings = ChainSettings(
            options,
            self._tokenizer,
            self._dims,
            self.n_frames,
            [] if prompt is None else tokenizer.encode(" " + prompt.strip()),
            WordSettings(heads, options.prepend_punctuations, options.append_punctuations),
            shortest_window(self._dims.n_frames),
            partial(_may_be_speech, features),
        )
        self._tokens: list[int] = []
        self._n_segments = 0
        self.seek = 0
        self._chains = _chains(self._settings, features)
        self._lanes: deque[_Lane] = deque()
        self._pending: list[Segment] = []

    @property
    def text(self) -> str:
        return self.decode(self._tokens)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens that follow each other: a character may begin in one segment and end
        in the next."""
        return self._tokenizer.decode(tokens)

    def __next__(self) -> Segment:
        while not self._pending:
            segments = self._next_window()
            if segments is None:
                raise StopIteration
            self._pending = segments
        return self._pending.pop(0)

    def windows(self) -> Iterator[list[Segment]]:
        """The segments of one window after the other; those of silent windows are none."""
        while (segments := self._next_window()) is not None:
            yield segments

    def _detect_language(self, tokenizer: Tokenizer) -> Detection:
        def probabilities(features: F32 | I16) -> Mapping[str, float]:  # [n_mels, N_FRAMES]
            window = self._window(features)
            logits = window.prefill([tokenizer.sot], [0]).result()
            (by_code,) = language_probabilities(logits, tokenizer, window.probabilities)
            return by_code

        detected = detect_file_language(
            self._features,
            probabilities,
            self._dims.n_frames,
            self._options.language_detection_segments,
            self._options.language_detection_threshold,
        )
        if detected.probability < _UNSURE:
            name = LANGUAGES.get(detected.language, detected.language).title()
            warnings.warn(
                f"language: {name} was detected with a probability of only "
                f"{detected.probability:.2f}; name the language if it is another",
                stacklevel=2,
            )
        return detected

    def _window(self, features: F32 | I16) -> Window:  # [n_mels, N_FRAMES]
        """A window of the recording; the latest is not encoded again."""
        if self._latest is None or not np.array_equal(features, self._latest.features):
            self._latest = self._recording.window(features)
        return self._latest

    def _next_window(self) -> list[Segment] | None:
        """The segments of the next window of the file, None at its end.

        Until they are known, a window of every chain that is begun is under way, and chains are
        begun as others end.
        """
        while True:
            # What comes first in the file is given first.
            while self._lanes:
                lane = self._lanes[0]
                if lane.known:
                    if self._options.batch_size is not None:
                        # What follows is decoded while the segments are looked at.
                        self._begin_windows()
                    return self._give(*lane.known.popleft())
                if lane.work is not None or lane.chain.next_window() is not None:
                    break
                self._lanes.popleft()
            self._begin_windows()
            if not self._lanes:
                return None
            self._wait()

    def _begin_windows(self) -> None:
        """Ask for the next window of every lane, and of as many new ones as there is room for."""
        n_under_way = 0
        for lane in self._lanes:
            if lane.work is None:
                self._begin(lane)
            n_under_way += lane.work is not None
        most = self._options.batch_size or 1
        while n_under_way < most and len(self._lanes) < _AHEAD * most:
            chain = next(self._chains, None)
            if chain is None:
                break
            lane = _Lane(chain)
            self._begin(lane)
            if lane.work is not None:
                self._lanes.append(lane)
                n_under_way += 1

    def _begin(self, lane: _Lane) -> None:
        lane.span = span = lane.chain.next_window()
        if span is None:
            return
        lane.window = self._window(self._features.window(span.seek, span.size))
        lane.attempts = _attempts(
            lane.window, self._tokenizer, self._dims, self._options, self._attempts,
            lane.chain.prompt(), span.seek,
        )  # fmt: skip
        lane.work = next(lane.attempts)

    def _wait(self) -> None:
        """Wait until something has come of a window, and go on with it."""
        lanes = [lane for lane in self._lanes if lane.work is not None]
        for lane in lanes:
            if lane.work is not None and lane.work.lost:
                self._begin(lane)
        wait([lane.work for lane in lanes if lane.work is not None], return_when=FIRST_COMPLETED)
        for lane in lanes:
            if lane.work is not None and lane.work.done():
                self._go_on(lane, lane.work)

    def _go_on(self, lane: _Lane, work: Work[Any]) -> None:
        attempts, span, window = lane.attempts, lane.span, lane.window
        assert attempts is not None
        assert span is not None
        assert window is not None
        try:
            lane.work = attempts.send(work.result())
        except StopIteration as end:
            lane.attempts = lane.work = lane.window = None
            segments = lane.chain.take(span, end.value, window)
            lane.known.append((segments, lane.chain.seek))

    def _give(self, segments: Sequence[Segment], seek: int) -> list[Segment]:
        """Take the segments of the next window of the file into the transcript."""
        self.seek = seek
        numbered = [
            replace(segment, id=id) for id, segment in enumerate(segments, self._n_segments)
        ]
        if not self._options.raw_timestamps:
            limit = last_time(self._features.duration)
            numbered = [within(segment, limit) for segment in numbered]
        self._n_segments += len(segments)
        self._tokens += [token for segment in segments for token in segment.tokens]
        return numbered


def _attempts(
    window: Window,
    tokenizer: Tokenizer,
    dims: ModelDimensions,
    options: TranscribeOptions,
    attempts: Sequence[DecodingOptions],
    prompt: Sequence[int],
    seek: int,
) -> _Attempts:
    """Decode a window at one temperature after the other until the result will do, or take the
    last."""
    languages: Mapping[str, float] | None = None
    if options.multilingual:
        logits = yield window.prefill([tokenizer.sot], [0])
        (languages,) = language_probabilities(logits, tokenizer, window.probabilities)
    result = None
    for attempt in attempts:
        make = partial(
            Decoding, tokenizer, dims, attempt, prompt, seek, window.probabilities, languages
        )
        decoding: Decoding = yield window.decode(make)
        result = decoding.result()
        if not _has_failed(result, options):
            break
    assert result is not None
    return result


def _chains(settings: ChainSettings, features: Features) -> Iterator[Chain]:
    clips = find_clips(features, settings.options, settings.dims.n_frames)
    if settings.options.batch_size is None:
        yield Chain(settings, clips)
    else:
        yield from (Chain(settings, [clip]) for clip in clips)


def _may_be_speech(features: Features, span: Span) -> bool:
    return may_be_speech(features.window(span.seek, span.size)[:, : span.size])


def _has_failed(result: DecodingResult, options: TranscribeOptions) -> bool:
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
