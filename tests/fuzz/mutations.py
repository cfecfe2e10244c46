"""Mutations of the kind that binary formats and text break at."""

from __future__ import annotations

import random
import struct

# Values that lengths, counts and offsets break at.
_INTERESTING = (0, 1, 2, 3, 127, 128, 255, 256, 1 << 15, (1 << 16) - 1, 1 << 20, (1 << 31) - 1)
_INTERESTING += (1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
_TOKENS = (b"null", b"-1", b"1e999", b"[]", b"{}", b'""', b"[" * 200, b"9" * 50, b"\\ud800", b"\0")


def mutate(data: bytes, chance: random.Random, limit: int = 1 << 17) -> bytes:
    """``data`` with a few changes; mostly near its start, where formats keep their fields."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        if not changed:
            changed = bytearray(chance.randbytes(8))
        chance.choice(_MUTATIONS)(changed, _place(changed, chance), chance)
        del changed[limit:]
    return bytes(changed)


def _place(data: bytearray, chance: random.Random) -> int:
    end = len(data)
    match chance.randrange(4):
        case 0:
            return chance.randrange(min(end, 64))
        case 1:
            return chance.randrange(min(end, 4096))
        case 2:
            # zip archives keep their directory at the end.
            return end - 1 - chance.randrange(min(end, 4096))
        case _:
            return chance.randrange(end)


def _flip(data: bytearray, at: int, chance: random.Random) -> None:
    data[at] ^= 1 << chance.randrange(8)


def _byte(data: bytearray, at: int, chance: random.Random) -> None:
    data[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))


def _integer(data: bytearray, at: int, chance: random.Random) -> None:
    size, letter = chance.choice(((2, "H"), (4, "I"), (8, "Q")))
    value = (chance.choice(_INTERESTING) + chance.choice((-1, 0, 0, 1))) % (1 << 8 * size)
    data[at : at + size] = struct.pack(f"<{letter}", value)


def _truncate(data: bytearray, at: int, chance: random.Random) -> None:
    del data[at:]


def _delete(data: bytearray, at: int, chance: random.Random) -> None:
    del data[at : at + chance.randrange(1, 32)]


def _repeat(data: bytearray, at: int, chance: random.Random) -> None:
    length = chance.choice((1, 4, 16, 256))
    data[at:at] = data[at : at + length] * chance.choice((1, 2, 50))


def _copy(data: bytearray, at: int, chance: random.Random) -> None:
    length = chance.choice((1, 4, 16, 64))
    source = chance.randrange(len(data))
    data[at : at + length] = data[source : source + length]


def _digits(data: bytearray, at: int, chance: random.Random) -> None:
    """Another number where text has one, which is how JSON writes sizes and offsets."""
    while at < len(data) and not 48 <= data[at] < 58:
        at += 1
    end = at
    while end < len(data) and 48 <= data[end] < 58:
        end += 1
    data[at:end] = str(chance.choice(_INTERESTING) - chance.choice((0, 1))).encode()


def _token(data: bytearray, at: int, chance: random.Random) -> None:
    data[at : at + chance.randrange(8)] = chance.choice(_TOKENS)


_MUTATIONS = (_flip, _byte, _integer, _integer, _truncate, _delete, _repeat, _copy, _digits, _token)
