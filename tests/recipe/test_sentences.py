"""The sentence generator of the built-in model (no speech, no torch)."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from weights.demo.recipe import grammar, sentences, words

MODEL = Path(__file__).parents[2] / "weights" / "demo"


def vocabulary(texts: Iterable[str]) -> set[str]:
    """Distinct lower-case words."""
    return {word for text in texts for word in re.findall(r"[a-z']+", text.lower())}


def test_training_text_and_tokenizer_are_those_of_the_model(tmp_path: Path) -> None:
    vocab = pytest.importorskip("weights.demo.recipe.vocab")
    texts = sentences.generate(40000, 1)
    digest = hashlib.sha256(("\n".join(texts) + "\n").encode()).hexdigest()
    assert f"`train.txt`) | `{digest}`" in (MODEL / "README.md").read_text()
    vocab.train_tokenizer(texts, tmp_path / "tokenizer.json")
    assert (tmp_path / "tokenizer.json").read_bytes() == (MODEL / "tokenizer.json").read_bytes()


def test_every_slot_is_known() -> None:
    texts = [*words.FRAMES[1], *itertools.chain.from_iterable(words.PHRASES.values())]
    used = {slot for text in texts for slot in re.findall(r"{(\w+)}", text)}
    assert used <= set(sentences.Generator(1).slots)


def test_same_seed_gives_the_same_sentences() -> None:
    assert sentences.generate(300, 5) == sentences.generate(300, 5)


def test_another_seed_gives_other_sentences() -> None:
    common = set(sentences.generate(300, 5)) & set(sentences.generate(300, 6))
    assert len(common) < 30


def test_held_out_sentences_are_never_trained_on() -> None:
    train = sentences.generate(2000, 1)
    held_out = sentences.generate(100, 2, held_out=True)
    assert not set(train) & set(held_out)
    assert all(sentences.is_held_out(text) for text in held_out)
    assert not any(sentences.is_held_out(text) for text in train)


def test_case_and_punctuation_do_not_make_a_sentence_new() -> None:
    text = next(iter(sentences.generate(1, 3, held_out=True)))
    assert sentences.is_held_out(text.upper().rstrip(".?!"))


def test_vocabulary_is_large_and_shared_by_both_sides() -> None:
    trained = vocabulary(sentences.generate(6000, 1))
    assert len(trained) >= 2000
    held_out = vocabulary(sentences.generate(60, 2, held_out=True))
    assert len(held_out - trained) <= 0.05 * len(held_out)


def test_sentences_look_like_sentences() -> None:
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
def test_spelled_numbers(number: int, words: str) -> None:
    assert grammar.spell(number) == words


@pytest.mark.parametrize(
    ("number", "words"), [(1, "first"), (12, "twelfth"), (20, "twentieth"), (31, "thirty first")]
)
def test_days_of_the_month(number: int, words: str) -> None:
    assert grammar.ordinal(number) == words


@pytest.mark.parametrize(
    ("singular", "plural"),
    [("box", "boxes"), ("city", "cities"), ("knife", "knives"), ("boy", "boys")],
)
def test_plurals(singular: str, plural: str) -> None:
    assert grammar.plural(singular) == plural
