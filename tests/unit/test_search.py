"""Searches over logits that depend on the sequence so far, against simple ones and openai's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from tests.unit.decoding_fakes import likeliest
from whisper_npu.decoding.search import (
    BeamSearch,
    Candidate,
    GreedySearch,
    Logits,
    Search,
    rank,
    take_likeliest,
)
from whisper_npu.ops.choice import token_logprobs, top_tokens

EOT, N_VOCAB = 0, 7

Table = Callable[[int, Sequence[int]], np.ndarray]


def table(seed: int, eot_bias: float = 0.0) -> Table:
    """Random logits for every window and sequence."""

    def logits(window: int, tokens: Sequence[int]) -> np.ndarray:
        random = np.random.RandomState([seed, window, *tokens])
        values = random.standard_normal(N_VOCAB).astype(np.float32)
        values[EOT] += eot_bias
        return values

    return logits


def run(search: Search, logits: Table, window: int, group: int, steps: int) -> list[list[int]]:
    """Run a search, following its caches; returns the order of caches at every step."""
    sequences: list[list[int]] = [[] for _ in range(group)]
    orders = []
    for _ in range(steps):
        rows = [logits(window, sequence) for sequence in sequences]
        source = search.update(found(np.array(rows), search.choices))
        if source is not None:
            sequences = [sequences[i] for i in source]
            orders.append(source.tolist())
        chosen = search.tokens[:, -1].tolist()
        sequences = [[*s, token] for s, token in zip(sequences, chosen, strict=True)]
        assert sequences == search.tokens.tolist()
        if search.completed:
            break
    return orders


def found(rows: np.ndarray, choices: int, more: int = 0) -> Logits:
    """What a search is given, with more of the likeliest tokens than it asked for."""
    return Logits(rows, *likeliest(rows, min(choices + more, N_VOCAB)))


def greedy(group: int = 1) -> GreedySearch:
    return GreedySearch(group, EOT, take_likeliest, 1)


def logprob(logits: Table, window: int, tokens: Sequence[int]) -> float:
    return sum(logprob_of(logits(window, tokens[:i]), token) for i, token in enumerate(tokens))


def test_greedy_takes_the_likeliest_until_the_end() -> None:
    logits = table(4)
    for window in range(3):
        search = greedy()
        run(search, logits, window, 1, 40)
        (candidate,) = search.candidates()
        expected: list[int] = []
        while len(expected) < 40 and (token := int(logits(window, expected).argmax())) != EOT:
            expected.append(token)
        assert list(candidate.tokens) == expected
        full = [*expected, EOT][:40]
        assert candidate.sum_logprob == pytest.approx(logprob(logits, window, full), abs=1e-5)


def test_greedy_is_complete_when_all_have_ended() -> None:
    search = greedy(2)
    ends, goes_on = np.eye(N_VOCAB, dtype=np.float32)[[EOT, 3]] * 9
    search.update(found(np.array([ends, goes_on]), 1))
    assert not search.completed
    search.update(found(np.array([goes_on, ends]), 1))
    assert search.completed
    first, second = search.candidates()
    assert (first.tokens, second.tokens) == ((), (3,))
    # Nothing is added after the end.
    assert first.sum_logprob == pytest.approx(second.sum_logprob / 2, abs=1e-6)


def test_the_first_of_equal_tokens_is_taken() -> None:
    logits = np.zeros((1, 4), np.float32)
    assert top_tokens(logits[0], 1).tolist() == [0]
    assert top_tokens(np.float32([1, 5, 5, 0, 5, 1]), 4).tolist() == [1, 2, 4, 0]
    assert top_tokens(np.float32([-np.inf, 2, -np.inf, -np.inf]), 3).tolist() == [1, 0, 2]


@pytest.mark.parametrize("n_vocab", [7, 512 * 6, 500, 5000])
def test_top_tokens_of_random_rows(n_vocab: int) -> None:
    random = np.random.RandomState(0)
    logits = random.standard_normal((20, n_vocab)).astype(np.float32)
    logits[10:] = np.round(logits[10:])  # equal ones
    logits[:, n_vocab // 3 : n_vocab // 2] = -np.inf
    expected = np.argsort(-logits, axis=1, kind="stable")[:, :6]
    for k in (1, 6):
        assert np.array_equal([top_tokens(row, k) for row in logits], expected[:, :k])


def test_logprobs_are_those_of_a_log_softmax() -> None:
    random = np.random.RandomState(0)
    logits = (random.standard_normal((4, 3000)) * 10).astype(np.float32)
    logits[:, 5:9] = -np.inf
    exact = logits.astype(np.float64)
    exact -= np.log(np.exp(exact).sum(axis=1, keepdims=True))
    tokens = np.tile(np.arange(10, 3000, 7), (4, 1))
    # Measured: 3.1e-6, half a unit in the last place of values up to 63.
    found = [token_logprobs(*pair) for pair in zip(logits, tokens, strict=True)]
    error = np.array(found) - np.take_along_axis(exact, tokens, 1)
    assert [token_logprobs(row, np.array([10])) for row in logits] == [row[0] for row in found]
    assert abs(error).max() < 6e-6


def plain_beam_search(logits: Table, beam_size: int, wanted: int, steps: int) -> list[Candidate]:
    """Beam search by sorting every continuation, in float64."""
    beams, finished = [Candidate((), 0.0)], []
    for _ in range(steps):
        continued = [
            Candidate((*tokens, token), total + logprob_of(logits(0, tokens), token))
            for tokens, total in beams
            for token in range(N_VOCAB)
        ]
        beams = []
        for candidate in sorted(continued, key=lambda c: -c.sum_logprob):
            if len(beams) == beam_size:
                break
            if candidate.tokens[-1] == EOT:
                finished.append(Candidate(candidate.tokens[:-1], candidate.sum_logprob))
            else:
                beams.append(candidate)
        if len(finished) >= wanted:
            return finished[:wanted]
    return (finished + beams)[: max(len(finished), beam_size)]


def logprob_of(logits: np.ndarray, token: int) -> float:
    values = logits.astype(np.float64)
    return float(values[token] - np.log(np.exp(values).sum()))


@pytest.mark.parametrize("beam_size", [2, 3, 5])
@pytest.mark.parametrize("patience", [None, 2.0])
def test_beam_search_is_that_of_a_plain_one(beam_size: int, patience: float | None) -> None:
    for seed in range(15):
        logits = table(seed, eot_bias=seed % 3 - 1.0)
        search = BeamSearch(beam_size, patience, EOT)
        run(search, logits, 0, beam_size, 6)
        candidates = search.candidates()
        expected = plain_beam_search(logits, beam_size, round(beam_size * (patience or 1)), 6)
        assert [c.tokens for c in candidates] == [c.tokens for c in expected]
        scores = [c.sum_logprob for c in expected]
        assert [c.sum_logprob for c in candidates] == pytest.approx(scores, abs=3e-6)


def test_a_beam_of_one_is_greedy() -> None:
    alone, beam = greedy(), BeamSearch(1, None, EOT)
    run(alone, table(1), 0, 1, 30)
    run(beam, table(1), 0, 1, 30)
    (a,), (b,) = alone.candidates(), beam.candidates()
    assert a.tokens == b.tokens
    assert a.sum_logprob == pytest.approx(b.sum_logprob, abs=1e-5)


def test_more_choices_than_asked_for_change_nothing() -> None:
    """Those that another window asked for."""
    for make in (lambda: BeamSearch(3, 2.0, EOT), lambda: greedy(2)):
        few, many = make(), make()
        for step in range(6):
            random = np.random.RandomState(step)
            rows = random.standard_normal((len(few.tokens), N_VOCAB)).astype(np.float32)
            few.update(found(rows, few.choices))
            many.update(found(rows, many.choices, 3))
            assert few.tokens.tolist() == many.tokens.tolist()
        assert few.candidates() == many.candidates()


@pytest.mark.parametrize(("patience", "n"), [(None, 4), (2.0, 8), (0.5, 2)])
def test_patience_decides_how_many_must_end(patience: float | None, n: int) -> None:
    search = BeamSearch(4, patience, EOT)
    run(search, table(0, eot_bias=1.0), 0, 4, 30)
    assert search.completed
    candidates = search.candidates()
    # Sequences that go on make up for too few that ended.
    assert len(candidates) == max(n, 4)
    ended = [c for c in candidates if logprob_of_end(c) == pytest.approx(c.sum_logprob, abs=1e-4)]
    assert len(ended) == n


def logprob_of_end(candidate: Candidate) -> float:
    return logprob(table(0, eot_bias=1.0), 0, [*candidate.tokens, EOT])


def test_sequences_that_do_not_end_are_candidates_best_first() -> None:
    search = BeamSearch(3, None, EOT)
    run(search, table(0, eot_bias=-50.0), 0, 3, 5)
    assert not search.completed
    candidates = search.candidates()
    assert [len(c.tokens) for c in candidates] == [5, 5, 5]
    scores = [c.sum_logprob for c in candidates]
    assert scores == sorted(scores, reverse=True)


def test_ranking_by_length() -> None:
    short, long = Candidate((1,), -1.0), Candidate((1, 2, 3, 4), -3.0)
    assert rank([short, long], None, pow) is long
    assert rank([short, long], 0.0, pow) is short
    # ((5 + 1) / 6) ** 1 = 1 and ((5 + 4) / 6) ** 1 = 1.5.
    assert rank([short, long], 1.0, pow) is short
    assert rank([Candidate((1,), -1.95), long], 1.0, pow).tokens == (1,)
    assert rank([Candidate((1,), -2.05), long], 1.0, pow) is long
    assert rank([short, Candidate((2,), -1.0)], None, pow) is short


def test_an_empty_sequence_can_be_ranked() -> None:
    assert rank([Candidate((), -0.5), Candidate((1,), -1.0)], None, pow).tokens == ()


@pytest.mark.reference
@pytest.mark.parametrize(
    ("beam_size", "patience"), [(1, None), (2, None), (5, None), (5, 0.4), (1, 1.7), (5, 1.7)]
)
def test_beam_search_is_openais(beam_size: int, patience: float | None) -> None:
    whisper = pytest.importorskip("whisper")
    torch = pytest.importorskip("torch")

    class Caches:
        def rearrange_kv_cache(self, source: list[int]) -> None:
            self.source = source

    for seed in range(25):
        logits = table(seed, eot_bias=seed % 4 - 1.0)
        ours = BeamSearch(beam_size, patience, EOT)
        orders = run(ours, logits, 0, beam_size, 10)

        caches = Caches()
        theirs = whisper.decoding.BeamSearchDecoder(beam_size, EOT, caches, patience)
        tokens = torch.full((beam_size, 1), 3)  # a prompt of one token
        sums = torch.zeros(beam_size)
        for step in range(10):
            rows = np.array([logits(0, row[1:]) for row in tokens.tolist()])
            tokens, completed = theirs.update(tokens, torch.from_numpy(rows), sums)
            if step > 0:
                assert orders[step] == caches.source
            if completed:
                break
        ended, scores = theirs.finalize(tokens[None], sums[None])
        candidates = ours.candidates()
        assert [list(c.tokens) for c in candidates] == [t.tolist()[1:-1] for t in ended[0]]
        assert [c.sum_logprob for c in candidates] == pytest.approx(scores[0], abs=2e-6)


@pytest.mark.reference
def test_greedy_and_ranking_are_openais() -> None:
    whisper = pytest.importorskip("whisper")
    torch = pytest.importorskip("torch")
    for seed in range(40):
        logits = table(seed)
        ours = greedy(2)
        run(ours, logits, 0, 2, 10)
        theirs = whisper.decoding.GreedyDecoder(0.0, EOT)
        tokens, sums = torch.full((2, 1), 3), torch.zeros(2)
        for _ in range(10):
            rows = np.array([logits(0, row[1:]) for row in tokens.tolist()])
            tokens, completed = theirs.update(tokens, torch.from_numpy(rows), sums)
            if completed:
                break
        padded, scores = theirs.finalize(tokens[None], sums[None])
        for candidate, row, score in zip(ours.candidates(), padded[0], scores[0], strict=True):
            assert list(candidate.tokens) == row.tolist()[1 : 1 + row.tolist()[1:].index(EOT)]
            assert candidate.sum_logprob == pytest.approx(score, abs=2e-6)

    random = np.random.RandomState(0)
    for penalty in (None, 0.0, 0.6, 1.0):
        ranker = whisper.decoding.MaximumLikelihoodRanker(penalty)
        for _ in range(50):
            lengths = random.randint(1, 20, size=4)
            scores = (-random.random_sample(4) * lengths).tolist()
            sequences = [[torch.zeros(n) for n in lengths]]
            candidates = [
                Candidate((i,) * n, s) for i, (n, s) in enumerate(zip(lengths, scores, strict=True))
            ]
            best = rank(candidates, penalty, pow)
            assert candidates.index(best) == ranker.rank(sequences, [scores])[0]
