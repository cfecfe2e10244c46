"""Everyday English sentences by the thousand, the same for the same seed.

Recognition has to be learned from sound, not from sentence frames, so the templates are many, their
slots draw from open word classes, and a part of the text has no grammar at all (word lists, names,
digits), where only listening helps. Numbers are spelled out the way they are spoken: every voice
then says the same words as the text shows.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Iterable

import wordlists as w
from templates import TEMPLATES

ONES = w.split_words("""zero one two three four five six seven eight nine ten eleven twelve
thirteen fourteen
fifteen sixteen seventeen eighteen nineteen""")
TENS = w.split_words("zero ten twenty thirty forty fifty sixty seventy eighty ninety")
ORDINAL_ONES = w.split_words("""zeroth first second third fourth fifth sixth seventh eighth ninth
tenth eleventh
twelfth thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth""")
_SLOT = re.compile(r"\{(\w+)\}")


def spell(number: int) -> str:
    """The words for a whole number below a million."""
    if number < 20:
        return ONES[number]
    if number < 100:
        tens, rest = divmod(number, 10)
        return TENS[tens] + (f" {ONES[rest]}" if rest else "")
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return f"{ONES[hundreds]} hundred" + (f" and {spell(rest)}" if rest else "")
    thousands, rest = divmod(number, 1000)
    link = " and " if 0 < rest < 100 else " "
    return f"{spell(thousands)} thousand" + (f"{link}{spell(rest)}" if rest else "")


def ordinal(number: int) -> str:
    """The words for a day of the month."""
    if number < 20:
        return ORDINAL_ONES[number]
    if number % 10 == 0:
        return {20: "twentieth", 30: "thirtieth"}[number]
    return f"{TENS[number // 10]} {ORDINAL_ONES[number % 10]}"


def plural(noun: str) -> str:
    """The plural of a noun of the word lists."""
    known = {
        "man": "men", "woman": "women", "child": "children", "wife": "wives", "knife": "knives",
        "shelf": "shelves", "wolf": "wolves", "mouse": "mice", "sheep": "sheep", "fish": "fish",
        "deer": "deer", "goose": "geese", "foot": "feet", "tooth": "teeth", "potato": "potatoes",
        "tomato": "tomatoes", "policeman": "policemen", "fireman": "firemen", "series": "series",
        "bus": "buses", "business": "businesses", "history": "histories",
    }  # fmt: skip
    head, _, last = noun.rpartition(" ")
    lead = f"{head} " if head else ""
    if last in known:
        return lead + known[last]
    if re.search(r"(s|x|z|ch|sh)$", last):
        return f"{lead}{last}es"
    if re.search(r"[^aeiou]y$", last):
        return f"{lead}{last[:-1]}ies"
    return f"{lead}{last}s"


def _on_first(word: str, change: Callable[[str], str]) -> str:
    first, _, rest = word.partition(" ")
    return change(first) + (f" {rest}" if rest else "")


def third(verb: str) -> str:
    """Third person singular."""

    def change(base: str) -> str:
        if re.search(r"(s|x|z|ch|sh|o)$", base):
            return base + "es"
        return base[:-1] + "ies" if re.search(r"[^aeiou]y$", base) else base + "s"

    return _on_first(verb, change)


_DOUBLED = {"stop", "drop", "get", "run", "swim", "sit", "win", "cut", "put", "prefer", "plan"}


def ing(verb: str) -> str:
    """Present participle."""

    def change(base: str) -> str:
        if base in _DOUBLED:
            return base + base[-1] + "ing"
        return base[:-1] + "ing" if re.search(r"[^e]e$", base) else base + "ing"

    return _on_first(verb, change)


def past(verb: str) -> str:
    """Regular past tense."""
    if verb in _DOUBLED:
        return verb + verb[-1] + "ed"
    if verb.endswith("e"):
        return verb + "d"
    return verb[:-1] + "ied" if re.search(r"[^aeiou]y$", verb) else verb + "ed"


def _forms(irregular: Iterable[str], regular: Iterable[str]) -> list[tuple[str, str, str]]:
    forms = [tuple(entry.split(":")) for entry in irregular]
    forms += [(verb, past(verb), past(verb)) for verb in regular]
    return forms  # type: ignore[return-value]


TRANSITIVE = _forms(w.IRREGULAR, w.REGULAR)
INTRANSITIVE = _forms(w.INTRANS_IRR, w.INTRANS_REG)
THINGS = w.OBJECTS + w.FURNITURE + w.CLOTHES
NOUNS = THINGS + w.ANIMALS + w.FRUITS + w.ABSTRACT + w.BUILDINGS + w.JOBS
ALL_WORDS = sorted(
    {
        word
        for words in (
            w.PLAIN_WORDS, w.PLAIN_WORDS, w.ADJ, w.ADV_MANNER, NOUNS, w.NATURE, w.PEOPLE, w.BODY,
            w.FOODS, w.COLOURS, w.WEATHER_ADJ, w.MATERIALS, [verb[0] for verb in TRANSITIVE],
            [verb[1] for verb in TRANSITIVE], [verb[1] for verb in INTRANSITIVE],
        )
        for word in words
        if word not in w.HOMOPHONES and " " not in word
    }
)  # fmt: skip


class Generator:
    """Draws sentences; every random choice comes from one seeded source."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        pick = self.rng.choice
        between = self.rng.randint
        lists: dict[str, list[str]] = {
            "name": w.FIRST_NAMES, "surname": w.LAST_NAMES, "city": w.CITIES,
            "country": w.COUNTRIES, "lang": w.LANGUAGES, "day": w.DAYS, "month": w.MONTHS,
            "season": w.SEASONS, "colour": w.COLOURS, "animal": w.ANIMALS, "food": w.FOODS,
            "fruit": w.FRUITS, "drink": w.DRINKS, "clothes": w.CLOTHES, "room": w.ROOMS,
            "furn": w.FURNITURE, "obj": w.OBJECTS, "building": w.BUILDINGS, "nature": w.NATURE,
            "job": w.JOBS, "person": w.PEOPLE, "folk": w.PEOPLE_PL, "body": w.BODY,
            "abs": w.ABSTRACT, "subject": w.SCHOOL, "sport": w.SPORTS, "adj": w.ADJ,
            "feel": w.FEELINGS, "adv": w.ADV_MANNER, "freq": w.FREQ, "wadj": w.WEATHER_ADJ,
            "wnoun": w.WEATHER_NOUN, "material": w.MATERIALS, "exclaim": w.EXCLAIM,
            "prep": w.PREP_PLACE, "unit": w.INGREDIENT_UNITS, "device": w.DEVICES,
            "quant": w.QUANT, "nth": w.ORDINALS_SMALL, "pairs": w.CLOTHES_PL, "word": ALL_WORDS,
            "free": w.PLAIN_WORDS,
        }  # fmt: skip
        self.slots: dict[str, Callable[[], str]] = {
            key: (lambda words=words: pick(words)) for key, words in lists.items()
        }
        self.slots |= {
            "street": lambda: f"{pick(w.STREETS)} {pick(['Street', 'Road', 'Avenue', 'Lane'])}",
            "noun": lambda: pick(NOUNS),
            "thing": lambda: pick(THINGS),
            "nouns": lambda: plural(pick(NOUNS)),
            "things": lambda: plural(pick(THINGS)),
            "animals": lambda: plural(pick(w.ANIMALS)),
            "fruits": lambda: plural(pick(w.FRUITS)),
            "units": lambda: plural(pick(w.INGREDIENT_UNITS)),
            "jobs": lambda: plural(pick(w.JOBS)),
            "small": lambda: spell(between(2, 12)),
            "num": lambda: spell(between(2, 99)),
            "big": lambda: spell(pick([between(100, 999), between(1000, 99999)])),
            "hundreds": lambda: f"{spell(between(1, 9))} hundred",
            "digits": lambda: " ".join(pick(ONES[:10]) for _ in range(between(3, 8))),
            "pct": lambda: f"{spell(between(1, 99))} percent",
            "money": self._money,
            "time": self._time,
            "date": self._date,
            "year": self._year,
            "np": self._noun_phrase,
            "place": self._place,
            "when": self._when,
            "subj": self._subject,
            "subj3": self._subject3,
            "vt": lambda: pick(TRANSITIVE)[0],
            "vts": lambda: third(pick(TRANSITIVE)[0]),
            "vted": lambda: pick(TRANSITIVE)[1],
            "vtpp": lambda: pick(TRANSITIVE)[2],
            "vting": lambda: ing(pick(TRANSITIVE)[0]),
            "vi": lambda: pick(INTRANSITIVE)[0],
            "vis": lambda: third(pick(INTRANSITIVE)[0]),
            "vied": lambda: pick(INTRANSITIVE)[1],
            "viing": lambda: ing(pick(INTRANSITIVE)[0]),
            "poss": lambda: pick(["my", "your", "his", "her", "our", "their", "the"]),
            "obj_pron": lambda: pick(["me", "you", "him", "her", "us", "them"]),
            "pron": lambda: pick(["I", "you", "we", "they"]),
            "pron3": lambda: pick(["he", "she", "it"]),
            "modal": lambda: pick(w.split_words("can could will would should must might may")),
            "unit_time": lambda: pick(["minutes", "hours", "days", "weeks", "months", "years"]),
            "unit_len": lambda: pick(["miles", "metres", "kilometres", "inches", "feet"]),
            "dir": lambda: pick(["left", "right", "north", "south", "east", "west"]),
            "list": self._word_list,
            "names": self._name_list,
            "neg": lambda: pick(
                w.split_words("don't can't won't couldn't didn't shouldn't wouldn't")
            ),
        }

    def _money(self) -> str:
        whole = self.rng.randint(2, 99)
        if self.rng.random() < 0.3:
            return f"{spell(whole)} {self.rng.choice(['dollars', 'pounds', 'euros'])}"
        if self.rng.random() < 0.3:
            return f"{spell(self.rng.randint(2, 40) * 50)} {self.rng.choice(['dollars', 'pounds'])}"
        if self.rng.random() < 0.2:
            return f"{spell(self.rng.randint(2, 99))} {self.rng.choice(['cents', 'pence'])}"
        return f"{spell(whole)} dollars and {spell(self.rng.randint(2, 99))} cents"

    def _time(self) -> str:
        hour = ONES[self.rng.randint(1, 12)]
        kind = self.rng.randrange(6)
        if kind == 0:
            return f"{hour} o'clock"
        if kind == 1:
            return f"half past {hour}"
        if kind == 2:
            return f"a quarter {self.rng.choice(['past', 'to'])} {hour}"
        if kind == 3:
            minutes = spell(self.rng.choice([5, 10, 20, 25]))
            return f"{minutes} {self.rng.choice(['past', 'to'])} {hour}"
        if kind == 4:
            return self.rng.choice(["noon", "midnight", "lunchtime", f"{hour} in the morning"])
        minute = self.rng.randint(1, 59)
        return f"{hour} {'oh ' if minute < 10 else ''}{spell(minute)}"

    def _date(self) -> str:
        day = ordinal(self.rng.randint(1, 31))
        month = self.rng.choice(w.MONTHS)
        return self.rng.choice([f"the {day} of {month}", f"{month} the {day}", f"{month} {day}"])

    def _year(self) -> str:
        if self.rng.random() < 0.3:
            return f"two thousand and {spell(self.rng.randint(1, 30))}"
        return f"nineteen {spell(self.rng.randint(10, 99))}"

    def _noun_phrase(self) -> str:
        rng = self.rng
        noun = rng.choice(NOUNS)
        adjective = f"{rng.choice(w.ADJ)} " if rng.random() < 0.55 else ""
        kind = rng.random()
        if kind < 0.45:
            return f"the {adjective}{noun}"
        if kind < 0.65:
            first = adjective or noun
            return f"{'an' if first[0] in 'aeiou' else 'a'} {adjective}{noun}"
        if kind < 0.8:
            owner = rng.choice(["my", "your", "his", "her", "our", "their"])
            return f"{owner} {adjective}{noun}"
        if kind < 0.87:
            return f"{rng.choice(w.FIRST_NAMES)}'s {adjective}{noun}"
        if kind < 0.94:
            return f"{spell(rng.randint(2, 30))} {adjective}{plural(noun)}"
        return f"{rng.choice(['these', 'those', 'some', 'all the'])} {adjective}{plural(noun)}"

    def _place(self) -> str:
        rng = self.rng
        return rng.choice(
            [
                f"in {rng.choice(w.CITIES)}",
                f"in {rng.choice(w.COUNTRIES)}",
                f"at the {rng.choice(w.BUILDINGS)}",
                f"in the {rng.choice(w.ROOMS)}",
                f"near the {rng.choice(w.NATURE)}",
                f"on {self.slots['street']()}",
                f"{rng.choice(w.PREP_PLACE)} the {rng.choice(w.BUILDINGS + w.FURNITURE)}",
            ]
        )

    def _when(self) -> str:
        rng = self.rng
        return rng.choice(
            [
                f"on {rng.choice(w.DAYS)}",
                f"at {self._time()}",
                f"in {rng.choice(w.MONTHS)}",
                f"on {self._date()}",
                "tomorrow", "today", "tonight", "this morning", "this afternoon", "this evening",
                f"next {rng.choice([*w.DAYS, 'week', 'month', 'year'])}",
                f"every {rng.choice([*w.DAYS, 'day', 'week', 'morning', 'night', 'year'])}",
                f"in {spell(rng.randint(2, 60))} {rng.choice(['minutes', 'hours', 'days'])}",
                f"after {rng.choice(['lunch', 'dinner', 'breakfast', 'school', 'work'])}",
                f"before {rng.choice(['lunch', 'dinner', 'school', 'midnight', 'the weekend'])}",
            ]
        )  # fmt: skip

    def _subject(self) -> str:
        rng = self.rng
        return rng.choice(
            [
                "I", "you", "we", "they",
                f"{rng.choice(w.FIRST_NAMES)} and I",
                f"{rng.choice(w.FIRST_NAMES)} and {rng.choice(w.FIRST_NAMES)}",
                f"my {plural(rng.choice(w.PEOPLE))}",
                f"the {rng.choice(w.PEOPLE_PL)}",
                f"the {plural(rng.choice(w.JOBS))}",
            ]
        )  # fmt: skip

    def _subject3(self) -> str:
        rng = self.rng
        return rng.choice(
            [
                "he", "she",
                rng.choice(w.FIRST_NAMES), rng.choice(w.FIRST_NAMES),
                f"my {rng.choice(w.PEOPLE)}", f"your {rng.choice(w.PEOPLE)}",
                f"the {rng.choice(w.JOBS)}", f"the {rng.choice(w.ADJ)} {rng.choice(w.PEOPLE)}",
                f"{rng.choice(['Mister', 'Missus', 'Doctor'])} {rng.choice(w.LAST_NAMES)}",
                f"{rng.choice(w.FIRST_NAMES)} {rng.choice(w.LAST_NAMES)}",
                f"our {rng.choice(w.JOBS)}",
            ]
        )  # fmt: skip

    def _word_list(self) -> str:
        return " ".join(self.rng.choice(ALL_WORDS) for _ in range(self.rng.randint(3, 8)))

    def _name_list(self) -> str:
        names = [self.rng.choice(w.FIRST_NAMES) for _ in range(self.rng.randint(2, 4))]
        return ", ".join(names[:-1]) + f" and {names[-1]}"

    def sentence(self) -> str:
        """One sentence (now and then two clauses), with its capital and closing mark."""
        weights, texts = TEMPLATES
        text = self.rng.choices(texts, weights)[0]
        text = _SLOT.sub(lambda match: self.slots[match.group(1)](), text)
        text = re.sub(r"\b([Aa]) (?=[aeiou](?!ne\b|ni|nce\b))", r"\1n ", text)
        if self.rng.random() < 0.06:
            head = self.rng.choice(w.EXCLAIM)
            keep = re.match(r"I\b|[A-Z]\w* ", text) and text.split()[0] in _CAPITAL
            text = f"{head}, {text if keep else text[0].lower() + text[1:]}"
        return text[0].upper() + text[1:]


_CAPITAL = (
    {"I", "I'm", "I'll", "I'd", "I've"}
    | {
        word
        for words in (
            w.FIRST_NAMES,
            w.LAST_NAMES,
            w.CITIES,
            w.COUNTRIES,
            w.DAYS,
            w.MONTHS,
            w.LANGUAGES,
        )
        for entry in words
        for word in (entry.split()[0], entry.split()[0] + "'s")
    }
    | {"Mister", "Missus", "Doctor"}
)


def is_held_out(text: str) -> bool:
    """Whether a sentence belongs to the test side: by its own letters, so never by chance both."""
    key = re.sub(r"[^a-z ]", "", text.lower())
    return zlib.crc32(key.encode()) % 20 == 0


def generate(count: int, seed: int, held_out: bool = False) -> list[str]:
    """`count` distinct sentences of the training side, or of the held-out side."""
    generator = Generator(seed)
    seen: set[str] = set()
    sentences: list[str] = []
    while len(sentences) < count:
        text = generator.sentence()
        if text not in seen and is_held_out(text) == held_out and len(text) < 160:
            seen.add(text)
            sentences.append(text)
    return sentences


def vocabulary(sentences: Iterable[str]) -> set[str]:
    """Distinct lower-case words."""
    return {word for text in sentences for word in re.findall(r"[a-z']+", text.lower())}
