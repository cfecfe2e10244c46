"""Decoding of a window: the prompt, the rules of each step, the choice among what was found."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from whisper_npu.decoding.batch import Batch
from whisper_npu.decoding.finite import require_numbers
from whisper_npu.decoding.options import DecodingOptions, DecodingResult
from whisper_npu.decoding.protocols import Session, Whisper
from whisper_npu.decoding.rules import logit_rules
from whisper_npu.decoding.search import (
    BeamSearch,
    GreedySearch,
    Logits,
    Sampler,
    Search,
    rank,
    take_likeliest,
)
from whisper_npu.errors import OptionError
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.ops.arrays import F32, I64
from whisper_npu.ops.probabilities import Probabilities
from whisper_npu.text.tokenizer import Tokenizer


def decode(
    model: Whisper,
    tokenizer: Tokenizer,
    states: F32 | Sequence[F32],
    options: DecodingOptions | None = None,
    *,
    seeks: Sequence[int] | None = None,
) -> list[DecodingResult]:  # [n_audio, n_audio_ctx, n_audio_state]
    """Decode windows, given the encoder's states for them.

    ``seeks`` are the positions of the windows in mel frames, on which sampling at a temperature
    above 0 depends (default: all 0). Each result is the one that the window has on its own. Raises
    OptionError if an option asks for what the model does not have.
    """
    options = options or DecodingOptions()
    seeks = seeks or [0] * len(states)
    session = model.decoder(states, options.group)
    detected: list[dict[str, float] | None] = [None] * len(states)
    if options.task == "lang_id" or (options.language is None and tokenizer.is_multilingual):
        _, by_code = detect_session_language(session, tokenizer)
        if options.task == "lang_id":
            return [DecodingResult(likeliest_language(found), found) for found in by_code]
        detected = [*by_code]
    decodings = [
        Decoding(tokenizer, model.dims, options, options.prompt, seek, session.probabilities, found)
        for seek, found in zip(seeks, detected, strict=True)
    ]
    batch = Batch()
    batch.begin(session, decodings)
    while batch.decodings:
        batch.step()
    return [decoding.result() for decoding in decodings]


def detect_language(
    model: Whisper, tokenizer: Tokenizer, states: F32 | Sequence[F32]
) -> tuple[I64, list[dict[str, float]]]:  # [n_audio, n_audio_ctx, n_audio_state] -> [n_audio]
    """The likeliest language token of each window, and the probabilities of all languages by code.

    Raises OptionError if the model has no language tokens.
    """
    return detect_session_language(model.decoder(states), tokenizer)


def detect_session_language(
    session: Session, tokenizer: Tokenizer
) -> tuple[I64, list[dict[str, float]]]:  # -> [n_audio]
    """As :func:`detect_language`, for the windows of a session, which starts over."""
    if not tokenizer.is_multilingual:
        raise OptionError("language: this model is English-only and cannot detect languages")
    start = np.full((session.n_audio, 1), tokenizer.sot)
    logits = session.prefill(start, [0])[:, 0]
    by_code = language_probabilities(logits, tokenizer, session.probabilities)
    ids = dict(zip(tokenizer.all_language_codes, tokenizer.all_language_tokens, strict=True))
    return np.array([ids[likeliest_language(found)] for found in by_code]), by_code


def language_probabilities(
    logits: F32, tokenizer: Tokenizer, probabilities: Probabilities
) -> list[dict[str, float]]:  # [n, n_vocab] -> n
    """The probabilities of all languages by code, by logits behind the start of transcript."""
    ids = np.array(tokenizer.all_language_tokens)
    found = probabilities.softmax(logits[:, ids])
    require_numbers(float(found.sum()))
    codes = tokenizer.all_language_codes
    return [dict(zip(codes, row.tolist(), strict=True)) for row in found]


def likeliest_language(by_code: Mapping[str, float]) -> str:
    """The first of the likeliest."""
    return max(by_code, key=by_code.__getitem__)


class Decoding:
    """One attempt at one window: what a batch asks at each step.

    ``prompt`` takes the place of ``options.prompt``, so that one object serves windows with other
    prompts. ``languages`` are the probabilities of all languages by code, where the window's own
    was detected; it is decoded in the likeliest. Raises OptionError if an option asks for what the
    model does not have.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        dims: ModelDimensions,
        options: DecodingOptions,
        prompt: str | Sequence[int] | None,
        seek: int,
        probabilities: Probabilities,
        languages: Mapping[str, float] | None = None,
    ) -> None:
        language = options.language if languages is None else likeliest_language(languages)
        self._tokenizer = tokenizer.for_task(language, options.task)
        self._options, self._languages = options, languages
        self._probabilities = probabilities
        if options.group >= dims.n_vocab:
            raise OptionError(f"beam_size: must be below the model's {dims.n_vocab} tokens")
        self.group = options.group
        initial = initial_tokens(self._tokenizer, options, prompt, dims.n_text_ctx)
        #: What the decoder is given before it samples: [n].
        self.prompt: I64 = np.array(initial)
        #: The tokens of it whose logits are wanted.
        self.rows = (initial.index(tokenizer.sot), len(initial) - 1)
        self._rules = logit_rules(self._tokenizer, dims, options, probabilities)
        sample_len = options.sample_len or dims.n_text_ctx // 2
        # The last token is sampled from a full context and never fed.
        self._left = min(sample_len, dims.n_text_ctx + 1 - len(initial))
        self._no_speech = math.nan
        #: What went wrong with this window alone; it is decoded no further.
        self.error: Exception | None = None
        self._search = self._new_search(seek)

    def _new_search(self, seek: int) -> Search:
        options, group, eot = self._options, self.group, self._tokenizer.eot
        if options.beam_size is not None:
            return BeamSearch(options.beam_size, options.patience, eot)
        if options.temperature == 0:
            return GreedySearch(group, eot, take_likeliest, 1)
        sampler = Sampler(options.seed, seek, options.temperature, group, self._probabilities)
        return GreedySearch(group, eot, sampler, 0)

    @property
    def choices(self) -> int:
        """How many of the likeliest tokens it looks at."""
        return self._search.choices

    @property
    def tokens(self) -> I64:
        """Those to be fed next: [group]."""
        return self._search.tokens[:, -1]

    @property
    def ended(self) -> bool:
        """Whether no step is to follow."""
        return self._search.completed or self._left == 0 or self.error is not None

    def open(self, logits: F32) -> None:  # [len(rows), n_vocab]
        """Look at the logits of the prompt, before any token is forbidden."""
        no_speech = self._tokenizer.no_speech
        if no_speech is not None:
            # Read where the transcript starts.
            self._no_speech = float(self._probabilities.softmax(logits[:1])[0, no_speech])
            require_numbers(self._no_speech)

    def forbid(self, logits: F32) -> None:  # [group, n_vocab]
        """Set logits of forbidden tokens to minus infinity."""
        for rule in self._rules:
            rule(logits, self._search.tokens)

    def update(self, logits: Logits) -> I64 | None:  # -> [group] or None
        """Take a step. Returns, if their order changed, whose cache each sequence goes on from."""
        self._left -= 1
        return self._search.update(logits)

    def result(self) -> DecodingResult:
        """The best that was found. Raises what went wrong."""
        if self.error is not None:
            raise self.error
        options = self._options
        best = rank(self._search.candidates(), options.length_penalty, self._probabilities.power)
        text = self._tokenizer.decode(best.tokens).strip()
        return DecodingResult(
            language=self._tokenizer.language or "en",
            language_probs=None if self._languages is None else dict(self._languages),
            tokens=best.tokens,
            text=text,
            avg_logprob=best.sum_logprob / (len(best.tokens) + 1),
            no_speech_prob=self._no_speech,
            temperature=options.temperature,
            compression_ratio=compression_ratio(text),
        )


def initial_tokens(
    tokenizer: Tokenizer,
    options: DecodingOptions,
    prompt: str | Sequence[int] | None,
    n_text_ctx: int,
) -> list[int]:
    """What the decoder is given before it samples: prompt, start of transcript, prefix.

    Raises OptionError if that leaves no room in the context.
    """
    sot_sequence = (
        tokenizer.sot_sequence_including_notimestamps
        if options.without_timestamps
        else tokenizer.sot_sequence
    )
    half = n_text_ctx // 2
    tokens = list(sot_sequence)
    if options.prefix:
        prefix = _as_tokens(tokenizer, "prefix", options.prefix)
        # The prefix takes what sampling leaves of half the context; as in openai-whisper it is
        # not cut where sampling may take all of it, as it may by default.
        left = half - (options.sample_len or half)
        tokens += prefix[-left:] if left > 0 else prefix
    if prompt:
        before = _as_tokens(tokenizer, "prompt", prompt)
        tokens = [tokenizer.sot_prev, *before[-(half - 1) :], *tokens]
    if len(tokens) > n_text_ctx:
        raise OptionError(
            f"prefix: with the prompt it takes {len(tokens)} tokens, and the model's context has "
            f"{n_text_ctx}; shorten it"
        )
    return tokens


def _as_tokens(tokenizer: Tokenizer, name: str, value: str | Sequence[int]) -> list[int]:
    if isinstance(value, str):
        return tokenizer.encode(" " + value.strip())
    n_vocab = tokenizer.vocabulary.n_vocab
    if max(value) >= n_vocab:
        raise OptionError(f"{name}: token {max(value)} is not one of the model's {n_vocab}")
    return list(value)


def compression_ratio(text: str) -> float:
    """Length of the text in UTF-8 over that of its zlib compression: high if it repeats itself."""
    encoded = text.encode("utf-8")
    return len(encoded) / len(zlib.compress(encoded))
