"""Decoding of windows: the prompt, the loop over steps, the choice among the sequences found."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from whisper_npu.decoding.finite import require_numbers
from whisper_npu.decoding.options import DecodingOptions, DecodingResult
from whisper_npu.decoding.protocols import Session, Whisper
from whisper_npu.decoding.rules import logit_rules
from whisper_npu.decoding.search import (
    BeamSearch,
    Candidate,
    GreedySearch,
    Sampler,
    Search,
    TakeLikeliest,
    rank,
)
from whisper_npu.errors import OptionError
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.ops.arrays import F32, I64
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
    session = model.decoder(states, options.group)
    seeks = seeks or [0] * len(states)
    return decode_session(session, tokenizer, model.dims, options, options.prompt, seeks)


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
    ids = np.array(tokenizer.all_language_tokens)
    probabilities = session.probabilities.softmax(session.prefill(start, [0])[:, 0, ids])
    require_numbers(float(probabilities.sum()))
    by_code = [
        dict(zip(tokenizer.all_language_codes, p.tolist(), strict=True)) for p in probabilities
    ]
    return ids[probabilities.argmax(axis=-1)], by_code


def decode_session(
    session: Session,
    tokenizer: Tokenizer,
    dims: ModelDimensions,
    options: DecodingOptions,
    prompt: str | Sequence[int] | None,
    seeks: Sequence[int],
) -> list[DecodingResult]:
    """As :func:`decode`, for the windows of a session with ``options.group`` sequences each.

    The session starts over, so that one may serve several attempts at the same windows. ``prompt``
    takes the place of ``options.prompt``, so that one object serves windows with other prompts.
    """
    task = "transcribe" if options.task == "lang_id" else options.task
    tokenizer = tokenizer.for_task(options.language, task)
    if options.task != "lang_id" and (options.language or not tokenizer.is_multilingual):
        return _Decoding(session, tokenizer, dims, options, prompt).run(seeks)
    detected, probabilities = detect_session_language(session, tokenizer)
    results = [
        DecodingResult(max(by_code, key=by_code.__getitem__), by_code) for by_code in probabilities
    ]
    if options.task == "lang_id":
        return results
    decoded = _Decoding(session, tokenizer, dims, options, prompt).run(seeks, detected)
    return [
        replace(result, language=language.language, language_probs=language.language_probs)
        for result, language in zip(decoded, results, strict=True)
    ]


class _Decoding:
    """One attempt at the windows of a session."""

    def __init__(
        self,
        session: Session,
        tokenizer: Tokenizer,
        dims: ModelDimensions,
        options: DecodingOptions,
        prompt: str | Sequence[int] | None,
    ) -> None:
        self._session, self._tokenizer, self._options = session, tokenizer, options
        self._probabilities = session.probabilities
        self._n_ctx = dims.n_text_ctx
        self._initial = initial_tokens(tokenizer, options, prompt, dims.n_text_ctx)
        self._sot_index = self._initial.index(tokenizer.sot)
        self._rules = logit_rules(tokenizer, dims, options, self._probabilities)
        if options.group >= dims.n_vocab:
            raise OptionError(f"beam_size: must be below the model's {dims.n_vocab} tokens")

    def run(self, seeks: Sequence[int], languages: I64 | None = None) -> list[DecodingResult]:
        """Decode, with the language token of each window replaced if ``languages`` is given."""
        prompt = np.tile(np.array(self._initial), (self._session.n_audio, 1))
        if languages is not None:
            prompt[:, self._sot_index + 1] = languages
        search = self._search(seeks)
        no_speech = self._advance(search, prompt)
        penalty, power = self._options.length_penalty, self._probabilities.power
        return [
            self._result(rank(candidates, penalty, power), probability)
            for candidates, probability in zip(search.candidates(), no_speech, strict=True)
        ]

    def _search(self, seeks: Sequence[int]) -> Search:
        options, n_audio, eot = self._options, self._session.n_audio, self._tokenizer.eot
        if options.beam_size is not None:
            beams = options.beam_size, options.patience
            return BeamSearch(n_audio, *beams, eot, self._session.likeliest)
        if options.temperature == 0:
            choose = TakeLikeliest(self._session.likeliest)
            return GreedySearch(n_audio, options.group, eot, choose)
        sampler = Sampler(
            options.seed, seeks, options.temperature, options.group, self._probabilities
        )
        return GreedySearch(n_audio, options.group, eot, sampler)

    def _advance(self, search: Search, prompt: I64) -> list[float]:  # [n_audio, n] -> n_audio
        """Run the search to its end. Returns the no-speech probability of each window."""
        session = self._session
        n_prompt = prompt.shape[1]
        opening = session.prefill(prompt, [self._sot_index, n_prompt - 1])
        no_speech = self._no_speech(opening[:, 0])
        logits = np.repeat(opening[:, 1], session.group, axis=0)
        sample_len = self._options.sample_len or self._n_ctx // 2
        # The last token is sampled from a full context and never fed.
        for left in range(min(sample_len, self._n_ctx + 1 - n_prompt) - 1, -1, -1):
            for rule in self._rules:
                rule(logits, search.tokens)
            source = search.update(logits)
            if search.completed or left == 0:
                break
            if source is not None:
                session.reorder(source)
            kept = search.narrow()
            if kept is not None:
                session.keep(kept)
            logits = session.step(search.tokens[:, -1])
        return no_speech

    def _no_speech(self, logits: F32) -> list[float]:  # [n_audio, n_vocab] -> n_audio
        # Read where the transcript starts, before any token is forbidden.
        if self._tokenizer.no_speech is None:
            return [math.nan] * len(logits)
        probabilities = self._probabilities.softmax(logits)[:, self._tokenizer.no_speech]
        require_numbers(float(probabilities.sum()))
        found: list[float] = probabilities.tolist()
        return found

    def _result(self, best: Candidate, no_speech_prob: float) -> DecodingResult:
        text = self._tokenizer.decode(best.tokens).strip()
        return DecodingResult(
            language=self._tokenizer.language or "en",
            tokens=best.tokens,
            text=text,
            avg_logprob=best.sum_logprob / (len(best.tokens) + 1),
            no_speech_prob=no_speech_prob,
            temperature=self._options.temperature,
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
