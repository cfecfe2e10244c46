"""Options of decoding and transcribing, checked when they are made.

Names, defaults and meanings are openai-whisper's, with ``seed`` and ``batch_size`` added. Every
value that an option does not take raises OptionError here, for the API and the command line alike;
only what depends on the model (its languages, its vocabulary, its context) is checked where the
model is known. Scalars and arrays of NumPy become Python's own values here, and lists tuples.
"""

from __future__ import annotations

import difflib
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from whisper_npu.errors import OptionError
from whisper_npu.text.languages import LANGUAGES, TASKS, to_language_code
from whisper_npu.values import Channel, checked_channel, use_python_values

FALLBACK_TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
PREPEND_PUNCTUATIONS = "\"'“¿([{-"
APPEND_PUNCTUATIONS = "\"'.。,，!！?？:：”)]}、"

# Sequences of one window: more take more memory than machines have.
_MOST_SEQUENCES = 1000
# Logits are divided by the temperature in float32, which these keep within its range.
_TEMPERATURES = (1e-30, 1e30)
# Attempts at a window: more take longer than anybody waits. A smaller step would be as many.
_MOST_ATTEMPTS = 1001
_LEAST_INCREMENT = 0.001


def _require(condition: bool, name: str, value: object, must: str) -> None:
    if not condition:
        raise OptionError(f"{name}: must be {must}, not {value!r}")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    # Compared, as an integer may be too large for a float.
    finite = isinstance(value, int | float) and abs(value) <= sys.float_info.max
    return finite and not isinstance(value, bool)


def _is_token_list(value: object) -> bool:
    return isinstance(value, Sequence) and all(_is_integer(v) and v >= 0 for v in value)


@dataclass(frozen=True, kw_only=True)
class _SharedOptions:
    """What decoding one window and transcribing a file have in common."""

    task: str = "transcribe"
    language: str | None = None
    sample_len: int | None = None
    best_of: int | None = None
    beam_size: int | None = None
    patience: float | None = None
    length_penalty: float | None = None
    prefix: str | Sequence[int] | None = None
    suppress_tokens: str | Sequence[int] | None = "-1"
    suppress_blank: bool = True
    without_timestamps: bool = False
    max_initial_timestamp: float | None = 1.0
    seed: int = 0

    _tasks: ClassVar[tuple[str, ...]] = TASKS

    def __post_init__(self) -> None:
        use_python_values(self)
        _require(self.task in self._tasks, "task", self.task, f"one of {', '.join(self._tasks)}")
        self._check_language()
        length = self.sample_len
        _require(
            length is None or (_is_integer(length) and length >= 1),
            "sample_len",
            length,
            "1 or more",
        )
        for name in ("best_of", "beam_size"):
            value = getattr(self, name)
            _require(
                value is None or (_is_integer(value) and 1 <= value <= _MOST_SEQUENCES),
                name,
                value,
                f"from 1 to {_MOST_SEQUENCES}",
            )
        self._check_patience()
        for name in ("suppress_blank", "without_timestamps"):
            self._check_flag(name)
        penalty = self.length_penalty
        _require(
            penalty is None or (_is_number(penalty) and 0 <= penalty <= 1),
            "length_penalty",
            penalty,
            "between 0 and 1",
        )
        self._check_text("prefix", self.prefix)
        self._check_seconds("max_initial_timestamp")
        _require(
            _is_integer(self.seed) and 0 <= self.seed < 2**64,
            "seed",
            self.seed,
            "an integer from 0 to 2**64 - 1",
        )
        self.suppressed_ids()

    def _check_language(self) -> None:
        if self.language is None:
            return
        known = isinstance(self.language, str) and (
            (code := to_language_code(self.language)) in LANGUAGES
            or re.fullmatch("[a-z]{2,3}", code) is not None
        )
        _require(known, "language", self.language, "a code such as 'en', or an English name")

    def _check_patience(self) -> None:
        patience = self.patience
        if patience is None:
            return
        _require(_is_number(patience) and patience > 0, "patience", patience, "above 0")
        if self.beam_size is None:
            raise OptionError(f"patience: {patience!r} needs beam_size, which is not given")
        if round(self.beam_size * patience) < 1:
            raise OptionError(
                f"patience: {patience!r} with beam_size {self.beam_size} leaves no candidate"
            )

    def _check_flag(self, name: str) -> None:
        value = getattr(self, name)
        _require(isinstance(value, bool), name, value, "True or False")

    def _check_seconds(self, name: str) -> None:
        value = getattr(self, name)
        _require(
            value is None or (_is_number(value) and value >= 0), name, value, "0 or more seconds"
        )

    @staticmethod
    def _check_text(name: str, value: object) -> None:
        _require(
            value is None or isinstance(value, str) or _is_token_list(value),
            name,
            value,
            "text or a list of token ids",
        )

    def suppressed_ids(self) -> tuple[int, ...]:
        """``suppress_tokens`` as integers; -1 stands for the model's own set."""
        value = self.suppress_tokens
        items: Sequence[Any] = value.split(",") if isinstance(value, str) and value else value or ()
        try:
            ids = tuple(
                int(item) if isinstance(item, str) or _is_integer(item) else -2 for item in items
            )
        except (TypeError, ValueError):
            ids = (-2,)
        _require(min(ids, default=0) >= -1, "suppress_tokens", value, "token ids, or -1")
        return ids


@dataclass(frozen=True, kw_only=True)
class DecodingOptions(_SharedOptions):
    """How one window is decoded.

    ``task`` may also be ``lang_id``, which only detects the language. ``best_of`` needs a
    temperature above 0 and ``beam_size`` one of 0.
    """

    temperature: float = 0.0
    prompt: str | Sequence[int] | None = None

    _tasks = (*TASKS, "lang_id")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_temperature(self.temperature)
        self._check_text("prompt", self.prompt)
        if self.beam_size is not None and self.best_of is not None:
            raise OptionError(
                f"beam_size: {self.beam_size} and best_of {self.best_of} cannot be given together"
            )
        if self.best_of is not None and self.temperature == 0:
            raise OptionError(f"best_of: {self.best_of} needs a temperature above 0")
        if self.beam_size is not None and self.temperature > 0:
            raise OptionError(
                f"beam_size: {self.beam_size} needs temperature 0, not {self.temperature}"
            )

    @property
    def group(self) -> int:
        """Sequences that are decoded for each window."""
        return self.beam_size or self.best_of or 1


@dataclass(frozen=True)
class DecodingResult:
    """The text of one window.

    ``tokens`` are those sampled, with timestamps and without the end of text. ``avg_logprob`` is
    their mean log-probability, end of text included; ``compression_ratio`` the length of the text
    over that of its zlib compression. ``language_probs`` is given where the language was detected.
    """

    language: str
    language_probs: dict[str, float] | None = None
    tokens: tuple[int, ...] = ()
    text: str = ""
    avg_logprob: float = math.nan
    no_speech_prob: float = math.nan
    temperature: float = math.nan
    compression_ratio: float = math.nan


@dataclass(frozen=True, kw_only=True)
class TranscribeOptions(_SharedOptions):
    """How a file is transcribed: openai-whisper's keywords of ``transcribe()``.

    ``temperature`` may be one number or several, which are tried in turn; ``beam_size`` and
    ``patience`` apply at temperature 0, ``best_of`` above. ``clip_timestamps`` are seconds, start
    and end in turn, as text or numbers.

    No time that is given out is beyond the audio, and no end before its start; with
    ``raw_timestamps`` they are openai-whisper's, which may be.

    If no ``language`` is given, it is that of the first of ``language_detection_segments`` windows
    in which one is more probable than ``language_detection_threshold``, else the one that is found
    in most of them: of windows from the start of the file on, whatever the clips, without those of
    silence and steady noise. With ``multilingual`` every window is decoded in its own language.

    With ``batch_size`` clips are transcribed independently of each other, and windows of that many
    of them are decoded side by side; a file, or a last clip without an end, is first cut at pauses
    into clips of at most 30 s. Each clip is what it is when it is transcribed alone, whatever the
    number: it begins with the initial prompt, and without text from before it, so that
    ``condition_on_previous_text`` cannot be True.

    ``channel`` is the channel that is transcribed: its number from 0, ``"left"`` (0) or ``"right"``
    (1); by default it is the mix of all. With ``"each"`` all are transcribed, each on its own, and
    their segments are merged by time, with the channel as ``speaker``.

    ``audio_track`` is the track of a file to transcribe, counted from 0 (FFmpeg's ``0:a:N``); None
    is the one that FFmpeg takes by default, and a warning names it where there are several.
    """

    temperature: float | Sequence[float] = FALLBACK_TEMPERATURES
    compression_ratio_threshold: float | None = 2.4
    logprob_threshold: float | None = -1.0
    no_speech_threshold: float | None = 0.6
    condition_on_previous_text: bool = True
    initial_prompt: str | None = None
    carry_initial_prompt: bool = False
    word_timestamps: bool = False
    raw_timestamps: bool = False
    language_detection_segments: int = 1
    language_detection_threshold: float = 0.5
    multilingual: bool = False
    prepend_punctuations: str = PREPEND_PUNCTUATIONS
    append_punctuations: str = APPEND_PUNCTUATIONS
    clip_timestamps: str | Sequence[float] = "0"
    hallucination_silence_threshold: float | None = None
    batch_size: int | None = None
    channel: Channel = None
    audio_track: int | None = None

    @classmethod
    def from_keywords(cls, **options: Any) -> TranscribeOptions:
        """Options from keywords; ``condition_on_previous_text`` is by default what ``batch_size``
        allows. Raises OptionError for a name that is not an option."""
        names = [field.name for field in fields(cls)]
        for name in options:
            if name not in names:
                close = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(names)}"
                raise OptionError(f"{name}: is not an option; {hint}")
        if options.get("batch_size") is not None:
            options.setdefault("condition_on_previous_text", False)
        return cls(**options)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            0 < len(self.temperatures) <= _MOST_ATTEMPTS,
            "temperature",
            self.temperature,
            f"one number or up to {_MOST_ATTEMPTS}",
        )
        for temperature in self.temperatures:
            _check_temperature(temperature)
        for name in (
            "compression_ratio_threshold",
            "logprob_threshold",
            "no_speech_threshold",
        ):
            value = getattr(self, name)
            _require(value is None or _is_number(value), name, value, "a number or None")
        for name in (
            "condition_on_previous_text",
            "carry_initial_prompt",
            "word_timestamps",
            "raw_timestamps",
            "multilingual",
        ):
            self._check_flag(name)
        for name in ("prepend_punctuations", "append_punctuations"):
            value = getattr(self, name)
            _require(isinstance(value, str), name, value, "text")
        prompt = self.initial_prompt
        _require(prompt is None or isinstance(prompt, str), "initial_prompt", prompt, "text")
        self.clip_seconds()
        self._check_seconds("hallucination_silence_threshold")
        if self.hallucination_silence_threshold is not None and not self.word_timestamps:
            raise OptionError("hallucination_silence_threshold: needs word_timestamps")
        self._check_detection()
        self._check_batch_size()
        checked_channel(self.channel)
        track = self.audio_track
        _require(
            track is None or (_is_integer(track) and track >= 0),
            "audio_track",
            track,
            "0 or more: the number of a track of the file",
        )

    def _check_detection(self) -> None:
        segments, threshold = self.language_detection_segments, self.language_detection_threshold
        _require(
            _is_integer(segments) and segments >= 1,
            "language_detection_segments",
            segments,
            "1 or more",
        )
        _require(
            _is_number(threshold) and 0 <= threshold <= 1,
            "language_detection_threshold",
            threshold,
            "between 0 and 1",
        )

    def _check_batch_size(self) -> None:
        size = self.batch_size
        if size is None:
            return
        _require(_is_integer(size) and size >= 1, "batch_size", size, "1 or more")
        if self.condition_on_previous_text:
            raise OptionError(
                f"batch_size: {size} and condition_on_previous_text True cannot be given together: "
                "what is decoded side by side has no previous text"
            )

    @property
    def temperatures(self) -> tuple[float, ...]:
        """The temperatures to try, in order."""
        value: Any = self.temperature
        return value if isinstance(value, tuple) else (value,)

    def clip_seconds(self) -> tuple[float, ...]:
        """``clip_timestamps`` as numbers."""
        value = self.clip_timestamps
        items: Sequence[Any] = value.split(",") if isinstance(value, str) and value else value or ()
        try:
            seconds = tuple(float(item) for item in items)
        except (TypeError, ValueError, OverflowError):
            seconds = (-1.0,)
        _require(
            all(math.isfinite(s) and s >= 0 for s in seconds),
            "clip_timestamps",
            value,
            "numbers of seconds, 0 or more: start,end,start,end",
        )
        for start, end in zip(seconds[::2], seconds[1::2], strict=False):
            if end < start:
                raise OptionError(
                    f"clip_timestamps: the clip {start:g},{end:g} ends before it starts"
                )
        return seconds

    @property
    def group(self) -> int:
        """Sequences that are decoded for each window at the first temperature."""
        return (self.best_of if self.temperatures[0] > 0 else self.beam_size) or 1

    def attempts(self, language: str | None) -> tuple[DecodingOptions, ...]:
        """The options of each attempt at a window, one for each temperature."""
        return tuple(self._attempt(temperature, language) for temperature in self.temperatures)

    def _attempt(self, temperature: float, language: str | None) -> DecodingOptions:
        shared = {f.name: getattr(self, f.name) for f in fields(_SharedOptions)}
        unused = ("beam_size", "patience") if temperature > 0 else ("best_of",)
        shared.update(dict.fromkeys(unused), language=language)
        return DecodingOptions(**shared, temperature=temperature)


def _check_temperature(value: Any) -> None:
    least, most = _TEMPERATURES
    _require(_is_number(value) and value >= 0, "temperature", value, "0 or more")
    _require(
        value == 0 or least <= value <= most,
        "temperature",
        value,
        f"0, or from {least:g} to {most:g}",
    )


def fallback_temperatures(temperature: float, increment: float | None) -> tuple[float, ...]:
    """The temperatures from ``temperature`` to 1 in steps of ``increment``; None: only the first.

    This is what openai-whisper's ``--temperature_increment_on_fallback`` means.
    """
    _check_temperature(temperature)
    if increment is None:
        return (temperature,)
    _require(
        _is_number(increment) and increment >= _LEAST_INCREMENT,
        "temperature_increment_on_fallback",
        increment,
        f"{_LEAST_INCREMENT} or more, or None",
    )
    steps = math.ceil((1.0 + 1e-6 - temperature) / increment)
    return tuple(temperature + i * increment for i in range(max(steps, 1)))
