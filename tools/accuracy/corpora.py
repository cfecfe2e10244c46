"""The speech that is transcribed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from tests.support.real.speech import LANGUAGES, Recording, packs, sentences

# Prompts of each language for the multilingual model: packs of them, until there are so many.
PROMPTS = 305
# Tokens are many: a part of the speech is enough for shares of them.
FORCED = 20


@dataclass(frozen=True)
class Corpus:
    """Recordings of at most a window each. ``forced`` is the number of those, from the first on,
    of which the distributions of tokens are compared as well."""

    name: str
    recordings: tuple[Recording, ...]
    forced: int

    @property
    def prompts(self) -> int:
        """How many recordings were joined to these."""
        return sum(len(recording.files) for recording in self.recordings)


def corpora(model: str) -> list[Corpus]:
    """Those of a model: English-only or multilingual."""
    if model.endswith(".en"):
        prompts = packs("en")
    else:
        # A pack of each language in turn: what is there when a run is broken off is of all.
        turns = zip_longest(*(list(_first(packs(code), PROMPTS)) for code in LANGUAGES))
        prompts = tuple(pack for turn in turns for pack in turn if pack is not None)
    return [Corpus("prompts", prompts, FORCED), Corpus("LibriVox", sentences(), 0)]


def _first(recordings: Sequence[Recording], count: int) -> Iterator[Recording]:
    """As many as hold ``count`` prompts."""
    found = 0
    for recording in recordings:
        if found >= count:
            return
        yield recording
        found += len(recording.files)
