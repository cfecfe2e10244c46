"""Rules that forbid tokens: each sets logits to minus infinity, given what was sampled so far.

A rule is called with the logits of the next token of all sequences, which it changes in place,
and with the tokens that they have sampled since the prompt. The rules are openai-whisper's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from whisper_npu.audio import CHUNK_LENGTH
from whisper_npu.decoding.options import DecodingOptions
from whisper_npu.errors import OptionError
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.ops.arrays import F32, I64
from whisper_npu.ops.probabilities import Probabilities
from whisper_npu.text.tokenizer import Tokenizer

_MARGIN = 0.01


class Rule(Protocol):
    """Forbids tokens in place: logits [n, n_vocab], sampled [n, t]."""

    def __call__(self, logits: F32, sampled: I64) -> None: ...


@dataclass(frozen=True)
class SuppressBlank:
    """The first token is none of ``tokens``: a space or the end of text."""

    tokens: Sequence[int]

    def __call__(self, logits: F32, sampled: I64) -> None:  # [n, n_vocab], [n, t]
        if sampled.shape[1] == 0:
            logits[:, self.tokens] = -np.inf


@dataclass(frozen=True)
class SuppressTokens:
    """No token is one of ``tokens``."""

    tokens: Sequence[int]

    @cached_property
    def _columns(self) -> I64:
        return np.array(self.tokens, np.int64)

    def __call__(self, logits: F32, sampled: I64) -> None:  # [n, n_vocab], [n, t]
        logits[:, self._columns] = -np.inf


@dataclass(frozen=True)
class TimestampRules:
    """Timestamps begin the text, come in pairs and grow; likely ones are preferred to text.

    ``max_initial`` is the largest first timestamp, as an index from ``timestamp_begin``;
    ``outweigh`` says whether some tokens are together likelier than another.
    """

    eot: int
    no_timestamps: int
    timestamp_begin: int
    max_initial: int | None
    outweigh: Callable[[F32, float], bool]

    def __call__(self, logits: F32, sampled: I64) -> None:  # [n, n_vocab], [n, t]
        logits[:, self.no_timestamps] = -np.inf
        if sampled.shape[1] == 0:
            self._begin(logits)
            return
        # Row by row: all that is done to one stays in a core's cache.
        latest = np.argmax((sampled >= self.timestamp_begin)[:, ::-1], axis=1).tolist()
        for row, tokens, age in zip(logits, sampled, latest, strict=True):
            self._go_on(row, tokens[-2:].tolist(), int(tokens[-1 - age]))

    def _begin(self, logits: F32) -> None:  # [n, n_vocab]
        logits[:, : self.timestamp_begin] = -np.inf
        if self.max_initial is not None:
            logits[:, self.timestamp_begin + self.max_initial + 1 :] = -np.inf

    def _go_on(self, row: F32, tokens: list[int], latest: int) -> None:  # [n_vocab]
        """Rules for a sequence that ends with ``tokens``, one or two, and of whose timestamps
        ``latest`` is the last, if it has any."""
        closing = tokens[-1] >= self.timestamp_begin
        # The first timestamp opens a segment, as if another had closed one before it.
        if closing and (len(tokens) == 1 or tokens[-2] >= self.timestamp_begin):
            row[self.timestamp_begin :] = -np.inf
            return
        if closing:
            row[: self.eot] = -np.inf
        # The next timestamp is above the last one, so that every segment has a length and the
        # windows move on; only after a closing one may it be the same.
        if latest >= self.timestamp_begin:
            row[self.timestamp_begin : latest if closing else latest + 1] = -np.inf
        self._prefer_timestamps(row)

    def _prefer_timestamps(self, row: F32) -> None:  # [n_vocab]
        # Where all timestamps together are likelier than any other token, it is a timestamp.
        # Comparing logits does for comparing probabilities: both have the same denominator.
        stamps, text = row[self.timestamp_begin :], row[row[: self.timestamp_begin].argmax()]
        largest = stamps[stamps.argmax()]
        # Together they are at most as likely as if each were like the likeliest. The margin is
        # for rounding: where it is close, they are added up.
        if largest + math.log(len(stamps)) + _MARGIN < text or largest == -np.inf:
            return
        if self.outweigh(stamps, text):
            row[: self.timestamp_begin] = -np.inf


def logit_rules(
    tokenizer: Tokenizer,
    dims: ModelDimensions,
    options: DecodingOptions,
    probabilities: Probabilities,
) -> list[Rule]:
    """The rules that ``options`` ask for, in the order in which they apply."""
    rules: list[Rule] = []
    if options.suppress_blank:
        rules.append(SuppressBlank([*tokenizer.blank, tokenizer.eot]))
    if suppressed := suppressed_tokens(tokenizer, options):
        rules.append(SuppressTokens(suppressed))
    if not options.without_timestamps:
        # A limit of 0 is no limit, as in openai-whisper.
        limit = options.max_initial_timestamp or None
        seconds_per_token = CHUNK_LENGTH / dims.n_audio_ctx
        rules.append(
            TimestampRules(
                tokenizer.eot,
                tokenizer.no_timestamps,
                tokenizer.timestamp_begin,
                None if limit is None else round(limit / seconds_per_token),
                probabilities.outweigh,
            )
        )
    return rules


def suppressed_tokens(tokenizer: Tokenizer, options: DecodingOptions) -> list[int]:
    """The ids that ``options.suppress_tokens`` stands for, sorted.

    -1 stands for ``tokenizer.suppressed``. Unless the option is empty the control tokens are
    added, as in openai-whisper. Ids that the tokenizer does not describe are always suppressed.
    Raises OptionError for ids that the model does not have.
    """
    wanted = options.suppressed_ids()
    suppressed = {id for id in wanted if id >= 0}
    n_vocab = tokenizer.vocabulary.n_vocab
    if wanted and max(wanted) >= n_vocab:
        raise OptionError(
            f"suppress_tokens: token {max(wanted)} is not one of the model's {n_vocab}"
        )
    if -1 in wanted:
        suppressed.update(tokenizer.suppressed)
    if wanted:
        control = (
            tokenizer.transcribe,
            tokenizer.translate,
            tokenizer.sot,
            tokenizer.sot_prev,
            tokenizer.sot_lm,
            tokenizer.no_speech,
        )
        suppressed.update(id for id in control if id is not None)
    return sorted(suppressed | set(tokenizer.vocabulary.unused))
