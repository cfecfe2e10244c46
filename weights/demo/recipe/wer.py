"""Word error rate with a plain normaliser: lower case, no punctuation."""

from __future__ import annotations

import re


def normalise(text: str) -> list[str]:
    """Words in lower case; apostrophes stay, hyphens part."""
    return re.sub(r"[^a-z0-9' ]", " ", text.lower()).split()


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Edit distance in words, and the number of reference words."""
    wanted, got = normalise(reference), normalise(hypothesis)
    row = list(range(len(got) + 1))
    for i, word in enumerate(wanted, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(got, 1):
            diagonal, row[j] = (
                row[j],
                min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other)),
            )
    return row[-1], len(wanted)
