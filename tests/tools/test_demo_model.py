"""The sentence generator of the demo model (no speech, no torch)."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "demo_model"


@pytest.fixture(scope="module")
def sentences() -> ModuleType:
    sys.path.insert(0, str(TOOL))
    try:
        import sentences
    finally:
        sys.path.remove(str(TOOL))
    return sentences


def test_same_seed_gives_the_same_sentences(sentences: ModuleType) -> None:
    assert sentences.generate(300, 5) == sentences.generate(300, 5)


def test_another_seed_gives_other_sentences(sentences: ModuleType) -> None:
    common = set(sentences.generate(300, 5)) & set(sentences.generate(300, 6))
    assert len(common) < 30


def test_held_out_sentences_are_never_trained_on(sentences: ModuleType) -> None:
    train = sentences.generate(2000, 1)
    held_out = sentences.generate(100, 2, held_out=True)
    assert not set(train) & set(held_out)
    assert all(sentences.is_held_out(text) for text in held_out)
    assert not any(sentences.is_held_out(text) for text in train)


def test_case_and_punctuation_do_not_make_a_sentence_new(sentences: ModuleType) -> None:
    text = next(iter(sentences.generate(1, 3, held_out=True)))
    assert sentences.is_held_out(text.upper().rstrip(".?!"))


def test_vocabulary_is_large_and_shared_by_both_sides(sentences: ModuleType) -> None:
    words = sentences.vocabulary(sentences.generate(6000, 1))
    assert len(words) >= 2000
    held_out = sentences.vocabulary(sentences.generate(60, 2, held_out=True))
    assert len(held_out - words) <= 0.05 * len(held_out)


def test_sentences_look_like_sentences(sentences: ModuleType) -> None:
    for text in sentences.generate(1000, 4):
        assert re.fullmatch(r"[A-Z][A-Za-z',. ]*[.?!]", text), text
        assert "  " not in text


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (40, "forty"),
        (99, "ninety nine"),
        (100, "one hundred"),
        (507, "five hundred and seven"),
        (2000, "two thousand"),
        (3004, "three thousand and four"),
        (45620, "forty five thousand six hundred and twenty"),
    ],
)
def test_spelled_numbers(sentences: ModuleType, number: int, words: str) -> None:
    assert sentences.spell(number) == words


@pytest.mark.parametrize(
    ("number", "words"), [(1, "first"), (12, "twelfth"), (20, "twentieth"), (31, "thirty first")]
)
def test_days_of_the_month(sentences: ModuleType, number: int, words: str) -> None:
    assert sentences.ordinal(number) == words


@pytest.mark.parametrize(
    ("singular", "plural"),
    [("box", "boxes"), ("city", "cities"), ("knife", "knives"), ("boy", "boys")],
)
def test_plurals(sentences: ModuleType, singular: str, plural: str) -> None:
    assert sentences.plural(singular) == plural
