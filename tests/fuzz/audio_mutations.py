"""Mutations of recordings along their structure: chunks, atoms, pages, elements, frames."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from random import Random

from tests.fuzz.mutations import mutate as mutate_bytes

# Numbers of channels, rates, sizes, positions and times that decoders break at.
_NUMBERS = (
    *(0, 1, 2, 3, 7, 8, 9, 16, 255, 256, 1023, 1024, 1025, 8000, 655350, 768000, 768001),
    *(65535, 65536, 1 << 20, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 32) - 8),
    *((1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 40, 1 << 52),
)
_TAG = re.compile(rb"[A-Za-z][A-Za-z0-9 _.]{3}")
# Elements of Matroska: clusters, times, blocks, tracks, rates, channels, sizes of bits, cues.
_ELEMENTS = (
    *(b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75", b"\x15\x49\xa9\x66"),
    *(b"\x16\x54\xae\x6b", b"\x1c\x53\xbb\x6b", b"\xe7", b"\xa3", b"\xa0", b"\xae", b"\xe1"),
    *(b"\xb5", b"\x9f", b"\x62\x64", b"\x44\x89", b"\x2a\xd7\xb1", b"\x56\xaa", b"\x56\xbb"),
    *(b"\x63\xa2", b"\x86", b"\xec"),
)
# Unknown in one byte and in eight, none, of 64 GiB, of one byte in two.
_ELEMENT_SIZES = (b"\xff", b"\x01" + b"\xff" * 7, b"\x80", b"\x08\xff\xff\xff\xff", b"\x40\x01")

Change = Callable[[bytearray, Random], None]


def mutate_audio(data: bytes, others: tuple[bytes, ...], chance: Random) -> bytes:
    """A recording with a few changes; ``others`` are joined to it, or spliced into it."""
    if chance.random() < 0.3:
        data = mutate_bytes(data, chance)
    changed = bytearray(data)
    changes = [
        *_ANY,
        *_ANY,
        *(change for mark, change in _OF if mark in data[:64] for _ in range(6)),
    ]
    for _ in range(chance.choice((1, 1, 2, 3, 6))):
        if chance.random() < 0.03:
            other = chance.choice(others)
            at = chance.choice((0, len(changed), chance.randrange(len(changed) + 1)))
            changed[at:at] = other
        elif changed:
            chance.choice(changes)(changed, chance)
    if data[:4] == b"OggS" and chance.random() < 0.9:
        _mend_pages(changed)
    return bytes(changed[: 1 << 18])


def _number(data: bytearray, at: int, chance: Random, sizes: str = "BHIQ") -> None:
    """A number in the place of what is there, in either order of bytes."""
    form = chance.choice("<>") + chance.choice(sizes)
    size = struct.calcsize(form)
    if at >= 0 and at + size <= len(data):
        value = chance.choice((*_NUMBERS, len(data), len(data) - at, chance.getrandbits(16)))
        struct.pack_into(form, data, at, value % (1 << 8 * size))


def _in_header(data: bytearray, chance: Random) -> None:
    _number(data, chance.randrange(min(len(data), 64)), chance)


def _at_tag(data: bytearray, chance: Random) -> None:
    """The size before or behind a tag of four letters, or a field that follows."""
    tags = [match.start() for match in _TAG.finditer(data, 0, 20_000)]
    if tags:
        at = chance.choice(tags[:200]) + chance.choice((-4, -4, 4, 4, 8, 12, 16, 20, 24, 28, 32))
        _number(data, at, chance, "HII")


def _double(data: bytearray, chance: Random) -> None:
    """What a structure has, again and again: nested, or one behind the other."""
    start = chance.randrange(len(data))
    piece = data[start : start + chance.choice((8, 64, 512, 4096))]
    data[start:start] = piece * chance.choice((1, 2, 30))


def _cut(data: bytearray, chance: Random) -> None:
    at = chance.randrange(len(data))
    del data[at : chance.choice((at + 1, at + 16, at + 600, len(data)))]


def _noise(data: bytearray, chance: Random) -> None:
    at = chance.randrange(len(data))
    size = min(chance.choice((1, 40, 1500)), len(data) - at)
    data[at : at + size] = chance.randbytes(size)


def _floats(data: bytearray, chance: Random) -> None:
    """Samples, rates and times that are not finite, or far from any."""
    value = chance.choice((float("nan"), float("inf"), float("-inf"), 1e38, 1e300, -1e10, 1e-42))
    form = chance.choice(("<f", ">f", "<d", ">d"))
    if abs(value) > 1e38 and form[1] == "f":
        value = float("inf")
    at = chance.randrange(len(data)) // 4 * 4
    if at + struct.calcsize(form) <= len(data):
        struct.pack_into(form, data, at, value)


def _riff(data: bytearray, chance: Random) -> None:
    """Format, channels, rate, bytes a second, alignment, bits."""
    at = data.find(b"fmt ")
    if at >= 0:
        offset, sizes = chance.choice(
            ((8, "H"), (10, "H"), (12, "I"), (16, "I"), (20, "H"), (22, "H"))
        )
        _number(data, at + offset, chance, sizes)


def _flac(data: bytearray, chance: Random) -> None:
    """Rate, channels, bits or samples of STREAMINFO, or the length of a block."""
    if len(data) < 26 or chance.random() < 0.3:
        _number(data, chance.choice((4, 5, 8, 10)), chance)
        return
    (packed,) = struct.unpack_from(">Q", data, 18)
    # The lowest bit of each field, its bits, and what it may be.
    shift, bits, values = chance.choice(
        (
            (44, 20, (0, 1, 999, 768_000, 655_350, (1 << 20) - 1)),
            (41, 3, (0, 1, 7)),
            (36, 5, (0, 3, 7, 15, 23, 31)),
            (0, 36, (0, 1, 16, (1 << 36) - 1, 1 << 35)),
        )
    )
    packed &= ~(((1 << bits) - 1) << shift)
    struct.pack_into(">Q", data, 18, packed | chance.choice(values) << shift)


def _ogg(data: bytearray, chance: Random) -> None:
    """Flags, position, stream, number or segments of a page; or pages again, swapped or gone."""
    pages = [match.start() for match in re.finditer(b"OggS", data)] or [0]
    at = chance.choice(pages)
    kind = chance.randrange(8)
    end = next((page for page in pages if page > at), len(data))
    if kind == 0:
        data[at:at] = data[at:end] * chance.choice((1, 50))
    elif kind == 1:
        del data[at:end]
    elif kind == 2:
        data += data[at:end]
    else:
        offset, sizes = chance.choice(
            ((5, "B"), (6, "Q"), (14, "I"), (18, "I"), (26, "B"), (28, "I"))
        )
        _number(data, at + offset, chance, sizes)


def _mend_pages(data: bytearray) -> None:
    """Have right checksums in the pages, or no decoder would look at them."""
    pages = [match.start() for match in re.finditer(b"OggS", data)][:60]
    for at, end in zip(pages, [*pages[1:], len(data)], strict=False):
        if at + 27 > len(data):
            break
        segments = data[at + 27 : at + 27 + data[at + 26]]
        stop = min(end, at + 27 + len(segments) + sum(segments))
        data[at + 22 : at + 26] = bytes(4)
        value = 0
        for byte in data[at:stop]:
            value = (value << 8 & 0xFFFFFFFF) ^ _CHECKSUMS[value >> 24 ^ byte]
        struct.pack_into("<I", data, at + 22, value)


def _checksum(byte: int) -> int:
    value = byte << 24
    for _ in range(8):
        value = (value << 1 ^ (0x04C11DB7 if value & 1 << 31 else 0)) & 0xFFFFFFFF
    return value


_CHECKSUMS = [_checksum(byte) for byte in range(256)]


def _matroska(data: bytearray, chance: Random) -> None:
    """The size of an element (also "unknown"), or its content."""
    element = chance.choice(_ELEMENTS)
    places = [match.end() for match in re.finditer(re.escape(element), data[:20_000])]
    if places:
        at = chance.choice(places)
        if chance.random() < 0.5:
            data[at : at + 1] = chance.choice(_ELEMENT_SIZES)
        else:
            _number(data, at + 1, chance)


def _transport(data: bytearray, chance: Random) -> None:
    """A packet of 188 bytes: its header, a time, its order."""
    at = chance.randrange(len(data) // 188 + 1) * 188
    if chance.random() < 0.3:
        data[at : at + 188] = data[:188]
    else:
        _number(data, at + chance.randrange(1, 24), chance)


_ANY: tuple[Change, ...] = (_in_header, _at_tag, _at_tag, _double, _cut, _noise, _floats)
# By what a file begins with.
_OF: tuple[tuple[bytes, Change], ...] = (
    *((b"RIFF", _riff), (b"RF64", _riff), (b"riff", _riff), (b"fLaC", _flac), (b"OggS", _ogg)),
    *((b"\x1a\x45\xdf\xa3", _matroska), (b"G@", _transport), (b"ftyp", _at_tag)),
    *((b"FORM", _at_tag), (b"caff", _at_tag)),
)
