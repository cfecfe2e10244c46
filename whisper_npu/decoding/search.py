"""Searches for the best token sequences: greedy or sampled, and beam search.

A search holds the sequences of all windows, ``group`` for each, ordered by window and then within
the group. It is given the logits of their next tokens, with forbidden ones at minus infinity, and
takes one step. The results of a window do not depend on the windows searched along with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from whisper_npu.decoding.sampling import sample_from, sample_uniforms
from whisper_npu.ops.arrays import F32, I64

_BLOCK = 256

Choose = Callable[[F32, int], I64]  # logits [n, n_vocab], step -> tokens [n]


class Candidate(NamedTuple):
    """A sequence without its end of text, and the log-probability of all of it."""

    tokens: tuple[int, ...]
    sum_logprob: float


class Search(Protocol):
    """State of a search: ``tokens`` [n, t] sampled so far; ``completed`` when more cannot help."""

    tokens: I64
    completed: bool

    def update(self, logits: F32) -> I64 | None:  # [n, n_vocab] -> [n] or None
        """Append a token to every sequence. Returns, if their order changed, whose cache
        each sequence goes on from."""
        ...

    def candidates(self) -> list[list[Candidate]]:
        """The sequences found for each window, best guesses first where scores are equal."""
        ...


class GreedySearch:
    """Sequences that grow on their own, by the token that ``choose`` picks at each step."""

    def __init__(self, n_audio: int, group: int, eot: int, choose: Choose) -> None:
        self.tokens: I64 = np.empty((n_audio * group, 0), np.int64)
        self.completed = False
        self._group, self._eot, self._choose = group, eot, choose
        self._sum_logprobs = np.zeros(n_audio * group, np.float32)
        self._ended = np.zeros(n_audio * group, bool)

    def update(self, logits: F32) -> None:  # [n, n_vocab]
        chosen = self._choose(logits, self.tokens.shape[1])
        logprobs = token_logprobs(logits, chosen[:, None])[:, 0]
        self._sum_logprobs += np.where(self._ended, np.float32(0), logprobs)
        chosen = np.where(self._ended, self._eot, chosen)
        self.tokens = np.concatenate([self.tokens, chosen[:, None]], axis=1)
        self._ended = chosen == self._eot
        self.completed = bool(self._ended.all())

    def candidates(self) -> list[list[Candidate]]:
        lengths = (self.tokens != self._eot).sum(axis=1)
        found = [
            Candidate(tuple(tokens[:length].tolist()), float(logprob))
            for tokens, length, logprob in zip(
                self.tokens, lengths, self._sum_logprobs, strict=True
            )
        ]
        return [found[i : i + self._group] for i in range(0, len(found), self._group)]


def take_likeliest(logits: F32, step: int) -> I64:  # [n, n_vocab], step -> [n]
    """The token of the largest logit, the first of several."""
    tokens: I64 = np.argmax(logits, axis=-1)
    return tokens


class Sampler:
    """Draws tokens at a temperature; ``seeks`` are the positions of the windows in mel frames."""

    def __init__(self, seed: int, seeks: Sequence[int], temperature: float, group: int) -> None:
        self._seed, self._seeks = seed, seeks
        self._temperature, self._group = temperature, group

    def __call__(self, logits: F32, step: int) -> I64:  # [n, n_vocab], step -> [n]
        uniforms = [
            sample_uniforms(self._seed, seek, self._temperature, self._group, step)
            for seek in self._seeks
        ]
        return sample_from(logits / np.float32(self._temperature), np.concatenate(uniforms))


class BeamSearch:
    """Beam search with patience (Kasai et al. 2022, arXiv:2204.05424).

    A window is complete when ``round(beam_size * patience)`` of its sequences have ended.
    """

    def __init__(self, n_audio: int, beam_size: int, patience: float | None, eot: int) -> None:
        n = n_audio * beam_size
        self.tokens: I64 = np.empty((n, 0), np.int64)
        self.completed = False
        self._beam_size, self._eot = beam_size, eot
        self._max_candidates = round(beam_size * (patience or 1.0))
        self._sum_logprobs = np.zeros(n, np.float32)
        self._finished: list[list[Candidate]] = [[] for _ in range(n_audio)]
        self._closed = [False] * n_audio

    def update(self, logits: F32) -> I64:  # [n, n_vocab] -> [n]
        likeliest = top_tokens(logits, self._beam_size + 1)
        scores = self._sum_logprobs[:, None] + token_logprobs(logits, likeliest)
        source = np.arange(len(logits))
        chosen = np.empty_like(source)
        for audio in range(len(self._closed)):
            self._advance(audio, likeliest, scores, source, chosen)
        self.tokens = np.concatenate([self.tokens[source], chosen[:, None]], axis=1)
        for audio, finished in enumerate(self._finished):
            if len(finished) >= self._max_candidates:
                self._close(audio)
        self.completed = all(self._closed)
        return source

    def _advance(
        self, audio: int, likeliest: I64, scores: F32, source: I64, chosen: I64
    ) -> None:  # [n, k], [n, k], [n], [n]
        """Fill in the window's part of ``source`` and ``chosen``, and collect what ended."""
        beams = slice(audio * self._beam_size, (audio + 1) * self._beam_size)
        # At first all sequences are the same, so that one of them has all the continuations.
        first = self.tokens.shape[1] == 0
        rows = slice(beams.start, beams.start + 1) if first else beams
        n_choices = likeliest.shape[1]
        tokens, totals = likeliest[rows].ravel(), scores[rows].ravel()
        order = np.argsort(-totals, kind="stable")
        ends = tokens[order] == self._eot
        kept = order[~ends][: self._beam_size]
        better = order[: np.flatnonzero(~ends)[self._beam_size - 1]]

        finished = self._finished[audio]
        for place in better[tokens[better] == self._eot]:
            if len(finished) < self._max_candidates:
                row = rows.start + place // n_choices
                finished.append(Candidate(tuple(self.tokens[row].tolist()), float(totals[place])))

        if not first:
            source[beams] = rows.start + kept // n_choices
        chosen[beams] = tokens[kept]
        self._sum_logprobs[beams] = totals[kept]

    def _close(self, audio: int) -> None:
        """Make up for sequences that did not end with the best of those that go on."""
        if self._closed[audio]:
            return
        self._closed[audio] = True
        beams = slice(audio * self._beam_size, (audio + 1) * self._beam_size)
        sums = self._sum_logprobs[beams]
        for i in np.argsort(sums, kind="stable")[::-1]:
            if len(self._finished[audio]) >= self._beam_size:
                break
            tokens = tuple(self.tokens[beams][i].tolist())
            self._finished[audio].append(Candidate(tokens, float(sums[i])))

    def candidates(self) -> list[list[Candidate]]:
        for audio in range(len(self._finished)):
            self._close(audio)
        return self._finished


def token_logprobs(logits: F32, tokens: I64) -> F32:  # [n, n_vocab], [n, k] -> [n, k]
    """Log-probabilities of some tokens: log-softmax of ``logits``, only where it is needed."""
    largest = logits.max(axis=-1, keepdims=True)
    total = np.exp(logits - largest).sum(axis=-1, keepdims=True)
    logprobs: F32 = np.take_along_axis(logits, tokens, axis=-1) - largest - np.log(total)
    return logprobs


def top_tokens(logits: F32, k: int) -> I64:  # [n, n_vocab], k -> [n, k]
    """The ``k`` likeliest tokens of each row, best first, the lower id first where equal."""
    # k blocks have a maximum of at least the k-th largest maximum, so that no token below it is
    # wanted: only few are left to be sorted.
    maxima = np.maximum.reduceat(logits, np.arange(0, logits.shape[1], _BLOCK), axis=-1)
    smallest = np.full(len(logits), -np.inf, np.float32)
    if maxima.shape[1] >= k:
        smallest = np.partition(maxima, -k, axis=-1)[:, -k]
    tokens = np.empty((len(logits), k), np.int64)
    for row, (values, least) in enumerate(zip(logits, smallest, strict=True)):
        places = np.flatnonzero(values >= least)
        tokens[row] = places[np.argsort(-values[places], kind="stable")[:k]]
    return tokens


def rank(candidates: Sequence[Candidate], length_penalty: float | None) -> Candidate:
    """The candidate with the highest log-probability for its length, the first of several.

    The penalty is the length itself or, if ``length_penalty`` (alpha) is given, that of Wu et al.
    2016 (arXiv:1609.08144, equation 14): ``((5 + length) / 6) ** alpha``.
    """

    def score(candidate: Candidate) -> float:
        length = len(candidate.tokens)
        if length_penalty is None:
            return candidate.sum_logprob / max(length, 1)
        penalty: float = ((5 + length) / 6) ** length_penalty
        return candidate.sum_logprob / penalty

    return max(candidates, key=score)
