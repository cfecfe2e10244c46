"""Words of a transcript, how many of them are wrong, and how sure a difference of two systems is.

Transcripts of different systems and references are brought to the same words by ``normalize``,
which is simpler than OpenAI's normaliser: numbers stay as they are written, so that "20" and
"twenty" are different words. Error rates are upper bounds therefore; differences between systems
on the same audio are what counts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Remarks that are no speech: "[MUSIC]", "(laughs)", "<noise>".
_REMARK = re.compile(r"\[[^\]]*\]|\([^)]*\)|<[^>]*>")
_APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)")
RESAMPLES = 10_000


class Errors(NamedTuple):
    """Words substituted, left out and put in, and the words of the reference."""

    errors: int
    words: int


class Difference(NamedTuple):
    """Of two error rates, with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


def normalize(text: str, language: str) -> list[str]:
    """The words of a transcript; ``language`` is a code ("en").

    Unicode's NFKC form in lower case, without remarks in brackets. Everything but letters, their
    marks and digits separates words. An apostrophe within an English word does not ("don't" is
    "dont"); in other languages it does, where it joins an article to its noun ("l'ora"). The
    Russian "ё" is "е", which most texts write for it.
    """
    text = _REMARK.sub(" ", unicodedata.normalize("NFKC", text).lower())
    if language == "en":
        text = _APOSTROPHE.sub("", text)
    elif language == "ru":
        text = text.replace("ё", "е")
    kept = (c if unicodedata.category(c)[0] in "LMN" else " " for c in text)
    return "".join(kept).split()


def words_changed(before: Sequence[str], after: Sequence[str]) -> int:
    """The least number of words to substitute, leave out and put in that makes ``after`` of
    ``before``."""
    row = list(range(len(after) + 1))
    for i, word in enumerate(before, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(after, 1):
            substituted = diagonal + (word != other)
            diagonal = row[j]
            row[j] = min(substituted, diagonal + 1, row[j - 1] + 1)
    return row[-1]


def word_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> Errors:
    """The errors of a hypothesis; both are words that ``normalize`` gave."""
    return Errors(words_changed(reference, hypothesis), len(reference))


def error_rate(errors: Sequence[Errors]) -> float:
    """All errors over all words. Raises ZeroDivisionError where there are no words."""
    return sum(each.errors for each in errors) / sum(each.words for each in errors)


def paired_bootstrap(
    base: Sequence[Errors], other: Sequence[Errors], resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """The error rate of ``other`` less that of ``base``, with its 95 % interval.

    Both have the errors of the same pieces of audio, in the same order; pieces are drawn with
    replacement, the same for both. Raises ValueError if the references differ.
    """
    words = np.array([each.words for each in base])
    if [each.words for each in other] != list(words):
        raise ValueError("the two systems were not compared with the same references")
    more = np.array([b.errors - a.errors for a, b in zip(base, other, strict=True)])
    n = len(words)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples)
    low, high = np.quantile((counts @ more) / (counts @ words), (0.025, 0.975))
    return Difference(float(more.sum() / words.sum()), float(low), float(high))
