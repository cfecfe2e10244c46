"""Everyday English sentences by the thousand, the same for the same seed.

Recognition has to be learned from sound, not from sentence frames, so the frames are many, their
slots draw from open word classes, and a part of the text has no grammar at all (word lists, names,
digits), where only listening helps. Numbers are spelled out the way they are spoken: every voice
then says the same words as the text shows.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable

from weights.demo.recipe.grammar import ing, ordinal, plural, spell, third, verb_forms
from weights.demo.recipe.words import FRAMES, PHRASES, WORDS

_SLOT = re.compile(r"\{(\w+)\}")
_TRANSITIVE, _INTRANSITIVE = verb_forms("transitive"), verb_forms("intransitive")


def _joined(*sections: str) -> list[str]:
    return [word for section in sections for word in WORDS[section]]


_THINGS = _joined("obj", "furn", "clothes")
_NOUNS = _THINGS + _joined("animal", "fruit", "abs", "building", "job")
_OTHERS = _joined("adj", "adv", "nature", "person", "body", "food", "colour", "wadj", "material")
_VERBS = [verb[i] for i in (0, 1) for verb in _TRANSITIVE] + [verb[1] for verb in _INTRANSITIVE]
_FREE = [word for word in WORDS["free_or_homophone"] if word not in WORDS["homophone"]]
_ALL = sorted(
    word
    for word in {*_FREE, *_NOUNS, *_OTHERS, *_VERBS}
    if word not in WORDS["homophone"] and " " not in word
)
LISTS = {
    **WORDS,
    "thing": _THINGS,
    "noun": _NOUNS,
    "word": _ALL,
    "free": _FREE,
    "landmark": _joined("building", "furn"),
}
# What keeps its capital within a sentence.
_CAPITAL = {"I", "I'm", "I'll", "I'd", "I've", *WORDS["title"]} | {
    entry.split()[0] + suffix
    for entry in _joined("name", "surname", "city", "country", "day", "month", "lang")
    for suffix in ("", "'s")
}


class Generator:
    """Draws sentences; every random choice comes from one seeded source."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        pick, between = self.rng.choice, self.rng.randint
        self.slots: dict[str, Callable[[], str]] = {
            name: (lambda words=words: pick(words)) for name, words in LISTS.items()
        }
        self.slots |= {
            f"{name}s": lambda name=name: plural(self.draw(name))
            for name in ("noun", "thing", "animal", "fruit", "unit", "job", "person")
        }
        self.slots |= {
            name: lambda texts=texts: pick([self.fill(text) for text in texts])
            for name, texts in PHRASES.items()
        }
        self.slots |= {
            "street": lambda: self.fill("{street_name} {street_kind}"),
            "small": lambda: spell(between(2, 12)),
            "num": lambda: spell(between(2, 99)),
            "up_to_sixty": lambda: spell(between(2, 60)),
            "big": lambda: spell(pick([between(100, 999), between(1000, 99999)])),
            "digits": lambda: " ".join(pick(WORDS["ones"][:10]) for _ in range(between(3, 8))),
            "pct": lambda: f"{spell(between(1, 99))} percent",
            "money": self._money,
            "time": self._time,
            "date": self._date,
            "year": self._year,
            "np": self._noun_phrase,
            "vt": lambda: pick(_TRANSITIVE)[0],
            "vts": lambda: third(pick(_TRANSITIVE)[0]),
            "vted": lambda: pick(_TRANSITIVE)[1],
            "vtpp": lambda: pick(_TRANSITIVE)[2],
            "vting": lambda: ing(pick(_TRANSITIVE)[0]),
            "vi": lambda: pick(_INTRANSITIVE)[0],
            "vied": lambda: pick(_INTRANSITIVE)[1],
            "viing": lambda: ing(pick(_INTRANSITIVE)[0]),
            "list": self._word_list,
            "names": self._name_list,
        }

    def draw(self, name: str) -> str:
        """What a slot is filled with this time."""
        return self.slots[name]()

    def fill(self, text: str) -> str:
        """A text whose slots are filled, from left to right."""
        return _SLOT.sub(lambda match: self.draw(match.group(1)), text)

    def _money(self) -> str:
        rng = self.rng
        whole = rng.randint(2, 99)
        if rng.random() < 0.3:
            return f"{spell(whole)} {rng.choice(['dollars', 'pounds', 'euros'])}"
        if rng.random() < 0.3:
            return f"{spell(rng.randint(2, 40) * 50)} {rng.choice(['dollars', 'pounds'])}"
        if rng.random() < 0.2:
            return f"{spell(rng.randint(2, 99))} {rng.choice(['cents', 'pence'])}"
        return f"{spell(whole)} dollars and {spell(rng.randint(2, 99))} cents"

    def _time(self) -> str:
        rng = self.rng
        hour = spell(rng.randint(1, 12))
        kind = rng.randrange(6)
        if kind == 0:
            return f"{hour} o'clock"
        if kind == 1:
            return f"half past {hour}"
        if kind == 2:
            return f"a quarter {rng.choice(['past', 'to'])} {hour}"
        if kind == 3:
            return f"{spell(rng.choice([5, 10, 20, 25]))} {rng.choice(['past', 'to'])} {hour}"
        if kind == 4:
            return rng.choice(["noon", "midnight", "lunchtime", f"{hour} in the morning"])
        minute = rng.randint(1, 59)
        return f"{hour} {'oh ' if minute < 10 else ''}{spell(minute)}"

    def _date(self) -> str:
        day, month = ordinal(self.rng.randint(1, 31)), self.draw("month")
        return self.rng.choice([f"the {day} of {month}", f"{month} the {day}", f"{month} {day}"])

    def _year(self) -> str:
        if self.rng.random() < 0.3:
            return f"two thousand and {spell(self.rng.randint(1, 30))}"
        return f"nineteen {spell(self.rng.randint(10, 99))}"

    def _noun_phrase(self) -> str:
        rng = self.rng
        noun = self.draw("noun")
        adjective = f"{self.draw('adj')} " if rng.random() < 0.55 else ""
        kind = rng.random()
        if kind < 0.45:
            return f"the {adjective}{noun}"
        if kind < 0.65:
            first = adjective or noun
            return f"{'an' if first[0] in 'aeiou' else 'a'} {adjective}{noun}"
        if kind < 0.8:
            return f"{self.draw('owner')} {adjective}{noun}"
        if kind < 0.87:
            return f"{self.draw('name')}'s {adjective}{noun}"
        if kind < 0.94:
            return f"{spell(rng.randint(2, 30))} {adjective}{plural(noun)}"
        return f"{self.draw('several')} {adjective}{plural(noun)}"

    def _word_list(self) -> str:
        return " ".join(self.draw("word") for _ in range(self.rng.randint(3, 8)))

    def _name_list(self) -> str:
        names = [self.draw("name") for _ in range(self.rng.randint(2, 4))]
        return ", ".join(names[:-1]) + f" and {names[-1]}"

    def sentence(self) -> str:
        """One sentence (now and then two clauses), with its capital and closing mark."""
        weights, texts = FRAMES
        text = self.fill(self.rng.choices(texts, weights)[0])
        text = re.sub(r"\b([Aa]) (?=[aeiou](?!ne\b|ni|nce\b))", r"\1n ", text)
        if self.rng.random() < 0.06:
            head = self.draw("exclaim")
            keep = re.match(r"I\b|[A-Z]\w* ", text) and text.split()[0] in _CAPITAL
            text = f"{head}, {text if keep else text[0].lower() + text[1:]}"
        return text[0].upper() + text[1:]


def is_held_out(text: str) -> bool:
    """Whether a sentence belongs to the test side: by its own letters, so never by chance both."""
    key = re.sub(r"[^a-z ]", "", text.lower())
    return zlib.crc32(key.encode()) % 20 == 0


def generate(count: int, seed: int, held_out: bool = False) -> list[str]:
    """`count` distinct sentences of the training side, or of the held-out side."""
    generator = Generator(seed)
    sentences: dict[str, None] = {}
    while len(sentences) < count:
        text = generator.sentence()
        if is_held_out(text) == held_out and len(text) < 160:
            sentences[text] = None
    return list(sentences)
