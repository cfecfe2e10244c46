"""Mutations of JSON by its structure, which bytes changed at random hardly ever keep."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

# What takes the place of a value, as text: some of it is more than Python's writer would write.
_ODD = (
    *("null", "true", "false", "0", "1", "-1", "2", "0.5", "-0.0", "1e308", "1e999", "NaN"),
    *("-Infinity", str(1 << 31), str(1 << 63), str(1 << 64), "9" * 400, "9" * 5000, '""', '"a"'),
    *('"\\u0000"', '"\\ud800"', '"\\u202e"', '"\\u001b[2J\\u0007"', '"' + "x" * 10_000 + '"'),
    *('"../../x"', '"/dev/zero"', '"1"', "[]", "{}", "[[]]", "[null]", '{"": 0}', "[0, 0, 0]"),
    *("[" * 50 + "]" * 50, "[" * 100_000, '{"a":' * 2_000 + "0" + "}" * 2_000),
    "[" + "0," * 5000 + "0]",
)  # fmt: skip
_MARK = "@@odd@@"


def mutate_json(text: bytes, chance: Random) -> bytes:
    """A JSON text with one to three changes; as it is, if it is not valid."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    odd = []
    for _ in range(chance.choice((1, 1, 2, 3))):
        value = _change(value, chance)
        odd.append(chance.choice(_ODD))
    changed = json.dumps(value)
    for one in odd:
        changed = changed.replace(f'"{_MARK}"', one, 1)
    if chance.random() < 0.1:
        # The same key twice, in the first object or in one further behind.
        at = chance.choice([i for i, letter in enumerate(changed[:10_000]) if letter == "{"] or [0])
        key = json.dumps(chance.choice(_keys(value) or ["x"]))
        changed = f"{changed[: at + 1]}{key}: {chance.choice(_ODD)}, {changed[at + 1 :]}"
    return changed.encode("utf-8", "surrogatepass")


def _keys(value: Any) -> list[str]:
    return list(value) if isinstance(value, dict) else []


def _change(value: Any, chance: Random) -> Any:
    """The value with a change in it, or in its place."""
    if not isinstance(value, dict | list) or not value or chance.random() < 0.05:
        return _instead(value, chance)
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = chance.choice(keys)
    kind = chance.randrange(8)
    if kind == 0:
        del value[key]
    elif kind == 1:
        value[key] = copy.deepcopy(value[chance.choice(keys)])
    elif kind == 2 and isinstance(value, dict):
        value[chance.choice(("", "a", key * 2, key.upper(), "__proto__"))] = value.pop(key)
    elif kind == 3 and isinstance(value, list):
        value.extend(copy.deepcopy(value[: chance.choice((1, 5))]) * chance.choice((1, 3)))
    else:
        value[key] = _change(value[key], chance)
    return value


def _instead(value: Any, chance: Random) -> Any:
    if isinstance(value, str) and chance.random() < 0.3:
        at = chance.randrange(len(value) + 1)
        return (
            value[:at]
            + chance.choice(("\0", "/", "..", "\n", "\u2028", "\x1b[31m", "é"))
            + value[at:]
        )
    if isinstance(value, int) and not isinstance(value, bool) and chance.random() < 0.5:
        return value + chance.choice((-2, -1, 1, 2, value, 1 << 20))
    return chance.choice((_MARK, [value], {"a": value}, str(value), _MARK))
