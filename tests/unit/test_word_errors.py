"""Words of transcripts, errors among them, and intervals of differences."""

from __future__ import annotations

import random
from functools import cache

import pytest

from tests.support.real.word_errors import (
    Errors,
    error_rate,
    normalize,
    paired_bootstrap,
    word_errors,
    words_changed,
)


@pytest.mark.parametrize(
    ("text", "language", "words"),
    [
        (" Don't, please - don’t!", "en", "dont please dont"),
        ("It is (laughs) [MUSIC] <noise> over.", "en", "it is over"),
        ("L'ora d’aria", "it", "l ora d aria"),
        ("¿Qué ñandú?", "es", "qué ñandú"),
        ("ПРИЁМ, ёлка", "ru", "прием елка"),
        ("Ёlan", "fr", "ёlan"),
        ("at 9:30, 1,500 ﬁles", "en", "at 9 30 1 500 files"),
        ("e\u0301te\u0301", "fr", "été"),
        ("... !", "en", ""),
    ],
)
def test_words_of_a_transcript(text: str, language: str, words: str) -> None:
    assert normalize(text, language) == words.split()


def plain_distance(a: str, b: str) -> int:
    """As it is defined."""

    @cache
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        same = distance(i - 1, j - 1) + (a[i - 1] != b[j - 1])
        return min(same, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(a), len(b))


def test_changed_words_are_the_edit_distance() -> None:
    rng = random.Random(1)
    pairs = [["".join(rng.choices("abc", k=rng.randrange(9))) for _ in "12"] for _ in range(200)]
    for a, b in pairs:
        assert words_changed(list(a), list(b)) == plain_distance(a, b)


def test_errors_of_a_hypothesis() -> None:
    reference = ["one", "two", "three", "four"]
    assert word_errors(reference, ["one", "three", "for", "four", "five"]) == Errors(3, 4)
    assert word_errors(reference, []) == Errors(4, 4)
    assert word_errors([], ["you"]) == Errors(1, 0)
    assert error_rate([Errors(3, 4), Errors(1, 0), Errors(0, 4)]) == 0.5


def test_interval_of_a_difference() -> None:
    """Of coins: errors of single words have a known spread."""
    rng = random.Random(2)
    base = [Errors(int(rng.random() < 0.2), 1) for _ in range(1000)]
    other = [Errors(int(rng.random() < 0.3), 1) for _ in range(1000)]
    found = paired_bootstrap(base, other)
    assert found.value == pytest.approx(error_rate(other) - error_rate(base))
    assert found.low < found.value < found.high
    # The two are independent here: the variance of the difference is the sum of the two.
    deviation = ((0.2 * 0.8 + 0.3 * 0.7) / 1000) ** 0.5
    assert found.high - found.low == pytest.approx(2 * 1.96 * deviation, rel=0.1)
    assert found == paired_bootstrap(base, other)
    assert found != paired_bootstrap(base, other, seed=1)


def test_pieces_are_drawn_for_both_alike() -> None:
    """What is hard for both is no uncertainty of their difference."""
    base = [Errors(i, 10) for i in range(10)]
    other = [Errors(i + 1, 10) for i in range(10)]
    assert paired_bootstrap(base, other) == pytest.approx((0.1, 0.1, 0.1))


def test_pieces_weigh_as_many_words_as_they_have() -> None:
    base = [Errors(0, 1), Errors(0, 99)]
    found = paired_bootstrap(base, [Errors(1, 1), Errors(0, 99)])
    assert found == pytest.approx((0.01, 0.0, 1.0))


def test_systems_must_have_the_same_references() -> None:
    with pytest.raises(ValueError, match="same references"):
        paired_bootstrap([Errors(0, 2)], [Errors(0, 3)])
