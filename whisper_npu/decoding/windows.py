"""Transcribing a file: the loop over its windows, of which several may be decoded side by side.

Windows that depend on each other are one chain, and the chains are independent of each other. A
whole file is one chain, as in openai-whisper, where each window is given the text before it. With
``batch_size`` every clip is a chain of its own, and the next windows of that many chains are
decoded as one batch.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from whisper_npu.audio import N_FRAMES
from whisper_npu.decoding.chain import Chain, ChainSettings, Window
from whisper_npu.decoding.clips import find_clips, shortest_window
from whisper_npu.decoding.language import Detection, detect_file_language
from whisper_npu.decoding.levels import may_be_speech
from whisper_npu.decoding.options import DecodingResult, TranscribeOptions
from whisper_npu.decoding.protocols import Features, Whisper
from whisper_npu.decoding.task import decode_session, detect_session_language
from whisper_npu.decoding.times import last_time, within
from whisper_npu.decoding.timing import Heads, alignment_heads
from whisper_npu.decoding.words import WordSettings
from whisper_npu.errors import ModelError, OptionError
from whisper_npu.ops.arrays import F32, I16
from whisper_npu.results import Segment
from whisper_npu.text.languages import LANGUAGES, to_language_code
from whisper_npu.text.tokenizer import Tokenizer

# A language that is less probable is told with a warning.
_UNSURE = 0.5


def transcribe_windows(
    model: Whisper,
    tokenizer: Tokenizer,
    features: Features,
    options: TranscribeOptions,
    heads: Heads | None = None,
) -> Transcript:
    """Begin to transcribe a file: its language is known on return, its segments as they come.

    ``heads`` are the decoder's alignment heads, for word timestamps (see
    :func:`~whisper_npu.decoding.timing.alignment_heads`; None: those of a model that names none).
    Raises OptionError if an option asks for what the model does not have, and ModelError if the
    model's windows are longer than 30 s. An English-only model goes on in English, with a warning.
    """
    options = options_for_model(model, tokenizer, options)
    return Transcript(model, tokenizer, features, options, heads or alignment_heads({}, model.dims))


def options_for_model(
    model: Whisper, tokenizer: Tokenizer, options: TranscribeOptions
) -> TranscribeOptions:
    """The options without what the model does not have. Warns and raises as transcribing does."""
    dims = model.dims
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


@dataclass(frozen=True)
class _Lane:
    """A chain, and what is known of its windows but cannot be given before earlier chains end:
    their segments, and the position after each."""

    chain: Chain
    known: deque[tuple[list[Segment], int]] = field(default_factory=deque)


class Transcript(Iterator[Segment]):
    """A transcription in progress: an iterator over the segments, which it decodes as it goes.

    ``language`` is known from the start; if it was detected ``language_probability`` is its
    probability, and ``language_probs`` are those of all languages by code in the window that it is
    from, else both are None. ``seek`` is the position in mel frames, out of ``n_frames``. ``text``
    is the text so far.
    """

    def __init__(
        self,
        model: Whisper,
        tokenizer: Tokenizer,
        features: Features,
        options: TranscribeOptions,
        heads: Heads,
    ) -> None:
        self._model, self._features, self._options = model, features, options
        self._encoded: tuple[F32 | I16, F32] | None = None
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
            model.dims,
            self.n_frames,
            [] if prompt is None else tokenizer.encode(" " + prompt.strip()),
            WordSettings(heads, options.prepend_punctuations, options.append_punctuations),
            shortest_window(model.dims.n_frames),
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
        def probabilities(window: F32 | I16) -> Mapping[str, float]:  # [n_mels, N_FRAMES]
            session = self._model.decoder([self._encode(window)], self._options.group)
            _, (by_code,) = detect_session_language(session, tokenizer)
            return by_code

        detected = detect_file_language(
            self._features,
            probabilities,
            self._model.dims.n_frames,
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

    def _encode(self, features: F32 | I16) -> F32:  # [n_mels, N_FRAMES] -> [n_audio_ctx, d]
        """Encoder states of a window; the latest is not encoded again."""
        if self._encoded is None or not np.array_equal(features, self._encoded[0]):
            window = features[None, :, : self._model.dims.n_frames]
            self._encoded = features, self._model.encode(window)[0]
        return self._encoded[1]

    def _next_window(self) -> list[Segment] | None:
        """The segments of the next window of the file, None at its end.

        Until they are known, a window of every chain that is begun is decoded, and chains are begun
        as others end.
        """
        while True:
            # What comes first in the file is given first.
            while self._lanes:
                if self._lanes[0].known:
                    return self._give(*self._lanes[0].known.popleft())
                if self._lanes[0].chain.next_window() is not None:
                    break
                self._lanes.popleft()
            by_prompt: dict[tuple[int, ...], list[tuple[_Lane, Window]]] = {}
            for lane, window in self._next_batch():
                by_prompt.setdefault(tuple(lane.chain.prompt()), []).append((lane, window))
            if not by_prompt:
                return None
            for prompt, part in by_prompt.items():
                self._decode_batch(prompt, part)

    def _next_batch(self) -> list[tuple[_Lane, Window]]:
        """The next windows of all lanes, and of as many new ones as there is room for."""
        batch = [
            (lane, window)
            for lane in self._lanes
            if (window := lane.chain.next_window()) is not None
        ]
        while len(batch) < (self._options.batch_size or 1):
            chain = next(self._chains, None)
            if chain is None:
                break
            window = chain.next_window()
            if window is not None:
                self._lanes.append(_Lane(chain))
                batch.append((self._lanes[-1], window))
        return batch

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

    def _decode_batch(self, prompt: Sequence[int], batch: Sequence[tuple[_Lane, Window]]) -> None:
        """Decode windows that have the same prompt, and let their chains take the results."""
        windows = [window for _, window in batch]
        # One by one: a batch would take more memory and no less time.
        states = [
            self._encode(self._features.window(window.seek, window.size)) for window in windows
        ]
        results = self._decode_with_fallback(windows, states, prompt)
        for (lane, window), of_window, result in zip(batch, states, results, strict=True):
            open_session = partial(self._model.decoder, [of_window], self._options.group)
            segments = lane.chain.take(window, result, open_session)
            lane.known.append((segments, lane.chain.seek))

    def _decode_with_fallback(
        self, windows: Sequence[Window], states: Sequence[F32], prompt: Sequence[int]
    ) -> list[DecodingResult]:
        """Decode at one temperature after the other until each result will do, or take the last.

        Those that will not do are decoded again together.
        """
        results: dict[int, DecodingResult] = {}
        failed = list(range(len(windows)))
        for options in self._attempts:
            found = decode_session(
                self._model.decoder([states[i] for i in failed], options.group),
                self._tokenizer,
                self._model.dims,
                options,
                prompt,
                [windows[i].seek for i in failed],
            )
            results.update(zip(failed, found, strict=True))
            failed = [i for i in failed if _has_failed(results[i], self._options)]
            if not failed:
                break
        return [results[i] for i in range(len(windows))]


def _chains(settings: ChainSettings, features: Features) -> Iterator[Chain]:
    clips = find_clips(features, settings.options, settings.dims.n_frames)
    if settings.options.batch_size is None:
        yield Chain(settings, clips)
    else:
        yield from (Chain(settings, [clip]) for clip in clips)


def _may_be_speech(features: Features, window: Window) -> bool:
    return may_be_speech(features.window(window.seek, window.size)[:, : window.size])


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
