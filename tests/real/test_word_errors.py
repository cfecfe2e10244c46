"""How many words of real speech are wrong, in each way in which the weights are computed."""

from __future__ import annotations

from functools import cache
from itertools import chain
from typing import NamedTuple

import pytest

from tests.support.real.modes import FLOAT32, MODES, transcriber
from tests.support.real.speech import LANGUAGES, Recording, packs, sentences
from tests.support.real.word_errors import normalize, word_errors, words_changed

pytestmark = pytest.mark.real
OPTIONS = {"temperature": 0.0, "condition_on_previous_text": False}
KERNELS = [mode for mode, of in MODES.items() if of.cpu_kernels]


# Measured over all that tools.accuracy transcribes (docs/numerics.md), as shares of the words:
# those that are wrong in float32, and in each mode those that are others than in float32.
WRONG = {"tiny.en": 0.0352, "base": 0.136}
CHANGED = {
    "tiny.en": {"INT8 weights in float32": 0.0041, "int8 on kernels": 0.0066},
    "base": {"INT8 weights in float32": 0.0136, "int8 on kernels": 0.0273},
}


class Corpus(NamedTuple):
    """``packs`` are packs of prompts taken evenly from each language, None for all of them."""

    model: str
    languages: tuple[str, ...]
    packs: int | None

    def recordings(self) -> list[Recording]:
        return [*chain.from_iterable(map(self._packs, self.languages)), *sentences()]

    def _packs(self, language: str) -> tuple[Recording, ...]:
        every = packs(language)
        return every if self.packs is None else every[:: len(every) // self.packs][: self.packs]


CORPORA = {
    "tiny.en": Corpus("tiny.en", ("en",), 16),
    "base": Corpus("base", LANGUAGES, 3),
    "tiny.en, everything": Corpus("tiny.en", ("en",), None),
    "base, everything": Corpus("base", LANGUAGES, None),
}


@cache
def texts(corpus: str, mode: str) -> list[list[str]]:
    """The words that a mode finds in each recording."""
    model = transcriber(CORPORA[corpus].model, mode)
    return [
        normalize(
            model.transcribe(each.samples(), language=each.language, **OPTIONS).text, each.language
        )
        for each in CORPORA[corpus].recordings()
    ]


@cache
def transcripts(corpus: str) -> list[list[str]]:
    return [normalize(each.text, each.language) for each in CORPORA[corpus].recordings()]


def found(corpus: str, mode: str) -> tuple[int, int]:
    """Words wrong, and words that are others than those of float32 on NumPy."""
    own = texts(corpus, mode)
    wrong = sum(errors.errors for errors in map(word_errors, transcripts(corpus), own))
    return wrong, sum(map(words_changed, texts(corpus, FLOAT32), own))
