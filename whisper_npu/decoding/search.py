"""Searches for the best token sequence of a window: greedy or sampled, and beam search.

A search holds the ``group`` sequences of one window. It is given the logits of their next tokens,
with forbidden ones at minus infinity, and takes one step. Windows that are decoded together have a
search each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from whisper_npu.decoding.finite import require_numbers
from whisper_npu.decoding.sampling import sample_from, sample_uniforms
from whisper_npu.ops.arrays import F32, I64
from whisper_npu.ops.probabilities import Probabilities


class Candidate(NamedTuple):
    """A sequence without its end of text, and the log-probability of all of it."""

    tokens: tuple[int, ...]
    sum_logprob: float


class Logits(NamedTuple):
    """Of the next token of each sequence: ``values`` [group, n_vocab]; the likeliest tokens, best
    first, and their log-probabilities, both [group, k], of as many as a search asked for or more.
    """

    values: F32
    tokens: I64
    logprobs: F32


class Search(Protocol):
    """State of a search: ``tokens`` [group, t] sampled so far; ``completed`` when more cannot help.

    ``choices`` is how many of the likeliest tokens it looks at.
    """

    choices: int
    tokens: I64

    @property
    def completed(self) -> bool: ...

    def update(self, logits: Logits) -> I64 | None:  # -> [group] or None
        """Append a token to every sequence. Returns, if their order changed, whose cache
        each sequence goes on from."""
        ...

    def candidates(self) -> list[Candidate]:
        """The sequences found, best guesses first where scores are equal."""
        ...


# Logits, the sequences that matter, step -> the next token of each of them, and its
# log-probability.
Choose = Callable[[Logits, Sequence[int], int], Sequence[tuple[int, float]]]


class GreedySearch:
    """Sequences that grow on their own, by the token that ``choose`` picks at each step."""

    def __init__(self, group: int, eot: int, choose: Choose, choices: int) -> None:
        self.tokens: I64 = np.empty((group, 0), np.int64)
        self.choices = choices
        self._eot, self._choose = eot, choose
        # Lists: for few sequences a call of NumPy takes longer than what it does.
        self._sum_logprobs = [0.0] * group
        self._ended = [False] * group

    @property
    def completed(self) -> bool:
        return all(self._ended)

    def update(self, logits: Logits) -> None:
        growing = [place for place, ended in enumerate(self._ended) if not ended]
        found = self._choose(logits, growing, self.tokens.shape[1])
        chosen = [self._eot] * len(self._ended)
        for place, (token, logprob) in zip(growing, found, strict=True):
            require_numbers(logprob)
            chosen[place] = token
            self._sum_logprobs[place] += logprob
            self._ended[place] = token == self._eot
        self.tokens = np.concatenate([self.tokens, np.array([chosen]).T], axis=1)

    def candidates(self) -> list[Candidate]:
        lengths = (self.tokens != self._eot).sum(axis=1).tolist()
        return [
            Candidate(tuple(tokens[:length]), logprob)
            for tokens, length, logprob in zip(
                self.tokens.tolist(), lengths, self._sum_logprobs, strict=True
            )
        ]


def take_likeliest(logits: Logits, places: Sequence[int], step: int) -> list[tuple[int, float]]:
    """The token of the largest logit of each sequence, the first of several."""
    return [(int(logits.tokens[place, 0]), float(logits.logprobs[place, 0])) for place in places]


class Sampler:
    """Draws tokens at a temperature; ``seek`` is the position of the window in mel frames."""

    def __init__(
        self, seed: int, seek: int, temperature: float, group: int, probabilities: Probabilities
    ) -> None:
        self._seed, self._seek = seed, seek
        self._temperature, self._group = temperature, group
        self._probabilities = probabilities

    def __call__(self, logits: Logits, places: Sequence[int], step: int) -> list[tuple[int, float]]:
        uniforms = sample_uniforms(self._seed, self._seek, self._temperature, self._group, step)
        found = []
        for place in places:
            row, uniform = logits.values[place], uniforms[place]
            cumulative = self._probabilities.cumulative(row / np.float32(self._temperature))
            token = sample_from(cumulative, uniform)
            (logprob,) = self._probabilities.token_logprobs(row, np.array([token])).tolist()
            found.append((token, logprob))
        return found


class BeamSearch:
    """Beam search with patience (Kasai et al. 2022, arXiv:2204.05424).

    It is complete when ``round(beam_size * patience)`` sequences have ended.
    """

    def __init__(self, beam_size: int, patience: float | None, eot: int) -> None:
        self.tokens: I64 = np.empty((beam_size, 0), np.int64)
        # One of them may be the end of text.
        self.choices = beam_size + 1
        self._beam_size, self._eot = beam_size, eot
        self._max_candidates = round(beam_size * (patience or 1.0))
        self._sum_logprobs = np.zeros(beam_size, np.float32)
        self._finished: list[Candidate] = []

    @property
    def completed(self) -> bool:
        return len(self._finished) >= self._max_candidates

    def update(self, logits: Logits) -> I64:  # -> [beam_size]
        beams, step = self._beam_size, self.tokens.shape[1]
        # At first all sequences are the same, so that one of them has all the continuations.
        parents = slice(None) if step else slice(1)
        scores = self._sum_logprobs[parents, None] + logits.logprobs[parents, : self.choices]
        require_numbers(float(scores.sum()))
        tokens, totals = logits.tokens[parents, : self.choices].ravel(), scores.ravel()
        order = np.argsort(-totals, kind="stable")
        goes_on = tokens[order] != self._eot
        n_better = goes_on.cumsum()
        # What ends and is better than the last one that goes on, best first.
        for choice in order[~goes_on & (n_better < beams)].tolist():
            if not self.completed:
                ended = tuple(self.tokens[choice // self.choices].tolist())
                self._finished.append(Candidate(ended, float(totals[choice])))
        kept = order[goes_on & (n_better <= beams)]
        source: I64 = kept // self.choices if step else np.arange(beams)
        self._sum_logprobs = totals[kept]
        self.tokens = np.concatenate([self.tokens[source], tokens[kept, None]], axis=1)
        return source

    def candidates(self) -> list[Candidate]:
        """Sequences that did not end are made up for with the best of those that go on."""
        found = list(self._finished)
        for place in np.argsort(self._sum_logprobs, kind="stable")[::-1].tolist():
            if len(found) >= self._beam_size:
                break
            tokens = tuple(self.tokens[place].tolist())
            found.append(Candidate(tokens, float(self._sum_logprobs[place])))
        return found


def rank(
    candidates: Sequence[Candidate],
    length_penalty: float | None,
    power: Callable[[float, float], float],
) -> Candidate:
    """The candidate with the highest log-probability for its length, the first of several.

    The penalty is the length itself or, if ``length_penalty`` (alpha) is given, that of Wu et al.
    2016 (arXiv:1609.08144, equation 14): ``((5 + length) / 6) ** alpha``.
    """

    def score(candidate: Candidate) -> float:
        length = len(candidate.tokens)
        if length_penalty is None:
            return candidate.sum_logprob / max(length, 1)
        return candidate.sum_logprob / power((5 + length) / 6, length_penalty)

    return max(candidates, key=score)
