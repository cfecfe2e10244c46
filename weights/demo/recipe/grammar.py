"""Numbers as they are spoken, and the inflection of the words of the lists."""

from __future__ import annotations

import re
from collections.abc import Callable

from weights.demo.recipe.words import WORDS

_ONES, _TENS = WORDS["ones"], WORDS["tens"]
_PLURALS = dict(entry.split(":") for entry in WORDS["plural"])


def spell(number: int) -> str:
    """The words for a whole number below a million."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens, rest = divmod(number, 10)
        return _TENS[tens] + (f" {_ONES[rest]}" if rest else "")
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return f"{_ONES[hundreds]} hundred" + (f" and {spell(rest)}" if rest else "")
    thousands, rest = divmod(number, 1000)
    link = " and " if 0 < rest < 100 else " "
    return f"{spell(thousands)} thousand" + (f"{link}{spell(rest)}" if rest else "")


def ordinal(number: int) -> str:
    """The words for a day of the month."""
    tens, rest = divmod(number, 10)
    if number < 20:
        return WORDS["ordinal_ones"][number]
    return f"{_TENS[tens]} {WORDS['ordinal_ones'][rest]}" if rest else WORDS["ordinal_tens"][tens]


def plural(noun: str) -> str:
    """The plural of a noun of the word lists."""
    head, space, last = noun.rpartition(" ")
    return head + space + (_PLURALS.get(last) or _with_s(last, r"(s|x|z|ch|sh)$"))


def third(verb: str) -> str:
    """Third person singular."""
    return _on_first(verb, lambda base: _with_s(base, r"(s|x|z|ch|sh|o)$"))


def ing(verb: str) -> str:
    """Present participle."""

    def change(base: str) -> str:
        if base in WORDS["doubled"]:
            return base + base[-1] + "ing"
        return base[:-1] + "ing" if re.search(r"[^e]e$", base) else base + "ing"

    return _on_first(verb, change)


def past(verb: str) -> str:
    """Regular past tense."""
    if verb in WORDS["doubled"]:
        return verb + verb[-1] + "ed"
    if verb.endswith("e"):
        return verb + "d"
    return verb[:-1] + "ied" if re.search(r"[^aeiou]y$", verb) else verb + "ed"


def verb_forms(kind: str) -> list[tuple[str, ...]]:
    """Base, past and participle of every verb that is ``kind``: transitive or intransitive."""
    irregular = [tuple(entry.split(":")) for entry in WORDS[f"irregular_{kind}"]]
    return irregular + [(verb, past(verb), past(verb)) for verb in WORDS[f"regular_{kind}"]]


def _with_s(word: str, hissing: str) -> str:
    if re.search(hissing, word):
        return f"{word}es"
    return f"{word[:-1]}ies" if re.search(r"[^aeiou]y$", word) else f"{word}s"


def _on_first(verb: str, change: Callable[[str], str]) -> str:
    first, space, rest = verb.partition(" ")
    return change(first) + space + rest
