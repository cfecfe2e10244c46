"""Searches for the best token sequences: greedy or sampled, and beam search.

A search holds the sequences of all windows, ``group`` for each, ordered by window and then within
the group. It is given the logits of their next tokens, with forbidden ones at minus infinity, and
takes one step. The results of a window do not depend on the windows searched along with it; those
that are complete leave when half of them are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from whisper_npu.decoding.finite import require_numbers
from whisper_npu.decoding.sampling import sample_from, sample_uniforms
from whisper_npu.ops.arrays import F32, I64
from whisper_npu.ops.probabilities import Probabilities

# Logits, k -> the k likeliest tokens of each row, best first, and their log-probabilities:
# [n, n_vocab], k -> [n, k], [n, k].
Likeliest = Callable[[F32, int], tuple[I64, F32]]
# Logits [n, n_vocab], the rows that matter, step, numbers of these sequences -> the next token of
# each, and its log-probability.
Choose = Callable[[F32, Sequence[int], int, Sequence[int]], Sequence[tuple[int, float]]]


class Candidate(NamedTuple):
    """A sequence without its end of text, and the log-probability of all of it."""

    tokens: tuple[int, ...]
    sum_logprob: float


class Search(Protocol):
    """State of a search: ``tokens`` [n, t] sampled so far; ``completed`` when more cannot help."""

    tokens: I64

    @property
    def completed(self) -> bool: ...

    def update(self, logits: F32) -> I64 | None:  # [n, n_vocab] -> [n] or None
        """Append a token to every sequence. Returns, if their order changed, whose cache
        each sequence goes on from."""
        ...

    def narrow(self) -> I64 | None:
        """Search on in fewer windows once few enough are not complete. Returns the places, among
        the windows before, of those that stay."""
        ...

    def candidates(self) -> list[list[Candidate]]:
        """The sequences found for each window, best guesses first where scores are equal."""
        ...


class GreedySearch:
    """Sequences that grow on their own, by the token that ``choose`` picks at each step."""

    def __init__(self, n_audio: int, group: int, eot: int, choose: Choose) -> None:
        self.tokens: I64 = np.empty((n_audio * group, 0), np.int64)
        self._group, self._eot, self._choose = group, eot, choose
        # Of the sequences that are still decoded: numbers, sums, and which of them have ended. All
        # of them lists: for few sequences a call of NumPy takes longer than what it does.
        self._sequences = list(range(n_audio * group))
        self._sum_logprobs = [0.0] * (n_audio * group)
        self._ended = [False] * (n_audio * group)
        self._found = [Candidate((), 0.0)] * (n_audio * group)

    @property
    def completed(self) -> bool:
        return all(self._ended)

    def update(self, logits: F32) -> None:  # [n, n_vocab]
        growing = [place for place, ended in enumerate(self._ended) if not ended]
        sequences = [self._sequences[place] for place in growing]
        found = self._choose(logits, growing, self.tokens.shape[1], sequences)
        chosen = [self._eot] * len(self._ended)
        for place, (token, logprob) in zip(growing, found, strict=True):
            require_numbers(logprob)
            chosen[place] = token
            self._sum_logprobs[place] += logprob
            self._ended[place] = token == self._eot
        self.tokens = np.concatenate([self.tokens, np.array([chosen]).T], axis=1)

    def narrow(self) -> I64 | None:
        if not any(self._ended):
            return None
        growing = ~np.array(self._ended).reshape(-1, self._group)
        kept = windows_to_keep(np.logical_or.reduce(growing, axis=1))
        if kept is not None:
            self._keep_found()
            rows = rows_of(kept, self._group)
            self.tokens = self.tokens[rows]
            self._sequences = [self._sequences[row] for row in rows]
            self._sum_logprobs = [self._sum_logprobs[row] for row in rows]
            self._ended = [self._ended[row] for row in rows]
        return kept

    def _keep_found(self) -> None:
        lengths = (self.tokens != self._eot).sum(axis=1)
        for sequence, tokens, length, logprob in zip(
            self._sequences, self.tokens, lengths, self._sum_logprobs, strict=True
        ):
            self._found[sequence] = Candidate(tuple(tokens[:length].tolist()), logprob)

    def candidates(self) -> list[list[Candidate]]:
        self._keep_found()
        return [self._found[i : i + self._group] for i in range(0, len(self._found), self._group)]


class TakeLikeliest:
    """Takes the token of the largest logit, the first of several."""

    def __init__(self, likeliest: Likeliest) -> None:
        self._likeliest = likeliest

    def __call__(
        self, logits: F32, places: Sequence[int], step: int, sequences: Sequence[int]
    ) -> list[tuple[int, float]]:
        tokens, logprobs = self._likeliest(logits, 1)
        found = list(zip(tokens[:, 0].tolist(), logprobs[:, 0].tolist(), strict=True))
        return [found[place] for place in places]


class Sampler:
    """Draws tokens at a temperature; ``seeks`` are the positions of the windows in mel frames."""

    def __init__(
        self,
        seed: int,
        seeks: Sequence[int],
        temperature: float,
        group: int,
        probabilities: Probabilities,
    ) -> None:
        self._seed, self._seeks = seed, seeks
        self._temperature, self._group = temperature, group
        self._probabilities = probabilities

    def __call__(
        self, logits: F32, places: Sequence[int], step: int, sequences: Sequence[int]
    ) -> list[tuple[int, float]]:
        uniforms = {
            window: sample_uniforms(
                self._seed, self._seeks[window], self._temperature, self._group, step
            )
            for window in dict.fromkeys(sequence // self._group for sequence in sequences)
        }
        found = []
        for place, sequence in zip(places, sequences, strict=True):
            row, uniform = logits[place], uniforms[sequence // self._group][sequence % self._group]
            cumulative = self._probabilities.cumulative(row / np.float32(self._temperature))
            token = sample_from(cumulative, uniform)
            (logprob,) = self._probabilities.token_logprobs(row, np.array([token])).tolist()
            found.append((token, logprob))
        return found


class BeamSearch:
    """Beam search with patience (Kasai et al. 2022, arXiv:2204.05424).

    A window is complete when ``round(beam_size * patience)`` of its sequences have ended.
    """

    def __init__(
        self,
        n_audio: int,
        beam_size: int,
        patience: float | None,
        eot: int,
        likeliest: Likeliest,
    ) -> None:
        n = n_audio * beam_size
        self.tokens: I64 = np.empty((n, 0), np.int64)
        self._beam_size, self._eot, self._likeliest = beam_size, eot, likeliest
        self._max_candidates = round(beam_size * (patience or 1.0))
        # Of the windows that are still decoded: numbers, and which of them are complete.
        self._windows = np.arange(n_audio)
        self._closed = np.zeros(n_audio, bool)
        self._sum_logprobs = np.zeros(n, np.float32)
        self._finished: list[list[Candidate]] = [[] for _ in range(n_audio)]

    @property
    def completed(self) -> bool:
        return bool(self._closed.all())

    def update(self, logits: F32) -> I64:  # [n, n_vocab] -> [n]
        beams, n_choices = self._beam_size, self._beam_size + 1
        places = np.flatnonzero(~self._closed)
        rows = rows_of(places, beams)
        # At first all sequences are the same, so that one of them has all the continuations.
        step = self.tokens.shape[1]
        parents = rows if step else rows[::beams]
        found, logprobs = self._likeliest(logits, n_choices)
        likeliest = found[parents]
        scores = self._sum_logprobs[parents, None] + logprobs[parents]
        require_numbers(float(scores.sum()))

        tokens, totals = likeliest.reshape(len(places), -1), scores.reshape(len(places), -1)
        order = np.argsort(-totals, axis=1, kind="stable")
        goes_on = np.take_along_axis(tokens, order, axis=1) != self._eot
        n_better = goes_on.cumsum(axis=1)
        # What ends and is better than the last one that goes on, best first.
        for i, nth in np.argwhere(~goes_on & (n_better < beams)).tolist():
            finished = self._finished[self._windows[places[i]]]
            if len(finished) < self._max_candidates:
                choice = int(order[i, nth])
                ended = self.tokens[rows[i * beams + choice // n_choices]]
                finished.append(Candidate(tuple(ended.tolist()), float(totals[i, choice])))

        kept = order[goes_on & (n_better <= beams)].reshape(len(places), beams)
        source = np.arange(len(self.tokens))
        if step:
            source[rows] = (rows[::beams, None] + kept // n_choices).ravel()
        chosen = np.full((len(self.tokens), 1), self._eot)
        chosen[rows, 0] = np.take_along_axis(tokens, kept, axis=1).ravel()
        self._sum_logprobs[rows] = np.take_along_axis(totals, kept, axis=1).ravel()
        self.tokens = np.concatenate([self.tokens[source], chosen], axis=1)
        for place in places.tolist():
            if len(self._finished[self._windows[place]]) >= self._max_candidates:
                self._close(place)
        return source

    def narrow(self) -> I64 | None:
        kept = windows_to_keep(~self._closed)
        if kept is not None:
            rows = rows_of(kept, self._beam_size)
            self.tokens, self._sum_logprobs = self.tokens[rows], self._sum_logprobs[rows]
            self._windows, self._closed = self._windows[kept], self._closed[kept]
        return kept

    def _close(self, place: int) -> None:
        """Make up for sequences that did not end with the best of those that go on."""
        self._closed[place] = True
        finished = self._finished[self._windows[place]]
        beams = slice(place * self._beam_size, (place + 1) * self._beam_size)
        sums = self._sum_logprobs[beams]
        for i in np.argsort(sums, kind="stable")[::-1]:
            if len(finished) >= self._beam_size:
                break
            finished.append(Candidate(tuple(self.tokens[beams][i].tolist()), float(sums[i])))

    def candidates(self) -> list[list[Candidate]]:
        for place in np.flatnonzero(~self._closed).tolist():
            self._close(place)
        return self._finished


def rows_of(windows: I64, group: int) -> I64:  # [n] -> [n * group]
    """The sequences of some windows."""
    rows: I64 = (windows[:, None] * group + np.arange(group)).ravel()
    return rows


def windows_to_keep(searched: NDArray[np.bool_]) -> I64 | None:  # [n]
    """The windows that go on when those that are not ``searched`` any more leave the batch; None
    if all stay.

    A batch shrinks by halves, so that few sizes need plans; windows that are complete fill it up.
    """
    size, needed = len(searched), int(searched.sum())
    while size > 1 and needed <= (half := (size + 1) // 2):
        size = half
    if size == len(searched):
        return None
    return np.sort(np.argsort(~searched, kind="stable")[:size])


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
