"""Outermost boxes of MP4, Matroska, ASF, AVI, AIFF, CAF and W64: what was joined, or cut off."""

from __future__ import annotations

from collections.abc import Iterator

from whisper_npu.audio.decoders.containers import iff
from whisper_npu.audio.decoders.containers.part import Part
from whisper_npu.audio.decoders.reader import Reader

NO_INDEX = "its index (the moov atom), which recorders write last, is missing"

_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
# What an AVI file begins with; AVIX, what follows its first GiB, is part of it.
_AVI, _AVIX = b"AVI ", b"AVIX"
_W64 = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000")
# Lengths of 32 bits from here on stand for "unknown".
_UNKNOWN = 0x7FFF0000
# A day in fragments of a second has as many; a file of more small ones is hostile.
_MAX_BOXES = 200_000
# An MP4 file begins with one of these.
_MP4 = (b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide", b"styp", b"sidx")


def parts(reader: Reader) -> list[Part]:
    """Files that were joined, or whose audio is longer than told; none if there is no need."""
    starts = [0]
    for name, start, _ in _boxes(reader):
        if start > starts[-1] and name in (
            b"ftyp",
            _EBML,
            _ASF_HEADER,
            _AVI,
            b"FORM",
            iff.CAF,
            _W64,
        ):
            starts.append(start)
    ends = [*starts[1:], reader.size]
    joined = len(starts) > 1
    found = [
        iff.whole(reader.part(start, end) if joined else reader)
        for start, end in zip(starts, ends, strict=True)
    ]
    return found if joined or found[0].note is not None else []


def what_is_cut(reader: Reader) -> str | None:
    """What of a file is cut off, in words; None if nothing, or of other containers."""
    boxes = list(_boxes(reader))
    if not boxes:
        return None
    if reader.at(4, 4) in _MP4 and b"moov" not in {name for name, *_ in boxes}:
        return NO_INDEX
    return "its last part is not whole" if boxes[-1][2] > reader.size else None


def media_bytes(reader: Reader) -> int:
    """Bytes of an MP4 file that hold audio or pictures; 0 for other files."""
    return sum(end - start for name, start, end in _boxes(reader) if name == b"mdat")


def _boxes(reader: Reader) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of the outermost boxes; the last may end after the file."""
    at = 0
    head = reader.at(0, 16)
    if head[4:8] in _MP4:
        box = _mp4_box
    elif head.startswith(_EBML):
        box = _ebml_box
    elif head == _ASF_HEADER:
        box = _asf_box
    elif head == _W64:
        box = _w64_box
    elif head[:4] == b"RIFF" and head[8:12] == _AVI:
        box = _avi_box
    elif head[:4] == b"FORM":
        box = _form_box
    elif head.startswith(iff.CAF):
        box = _caf_box
    else:
        return
    for _ in range(_MAX_BOXES):
        if at >= reader.size or (found := box(reader, at)) is None:
            return
        name, length = found
        yield name, at, at + length
        at += length


def _mp4_box(reader: Reader, at: int) -> tuple[bytes, int] | None:
    head = reader.at(at, 16)
    size = int.from_bytes(head[:4], "big")
    if size == 1:
        size = int.from_bytes(head[8:16], "big")
    elif size == 0:
        size = reader.size - at
    return (head[4:8], size) if len(head) >= 8 and size >= 8 else None


def _ebml_box(reader: Reader, at: int) -> tuple[bytes, int] | None:
    name = reader.at(at, 4)
    if name not in (_EBML, _SEGMENT):
        return None
    first = reader.at(at + 4, 1)
    if not first or first == b"\0":
        return None
    width = 9 - first[0].bit_length()
    value = int.from_bytes(reader.at(at + 4, width), "big") & ((1 << 7 * width) - 1)
    # All ones: the length was left open.
    return None if value == (1 << 7 * width) - 1 else (name, 4 + width + value)


def _asf_box(reader: Reader, at: int) -> tuple[bytes, int] | None:
    head = reader.at(at, 24)
    size = int.from_bytes(head[16:], "little")
    return (head[:16], size) if len(head) == 24 and size >= 24 else None


def _w64_box(reader: Reader, at: int) -> tuple[bytes, int] | None:
    head = reader.at(at, 24)
    size = int.from_bytes(head[16:], "little")
    # It holds all others.
    return (_W64, size) if head[:16] == _W64 and 0 < size < 2**63 else None


def _avi_box(reader: Reader, at: int) -> tuple[bytes, int] | None:
    head = reader.at(at, 12)
    size = int.from_bytes(head[4:8], "little")
    told = head[:4] == b"RIFF" and head[8:] in (_AVI, _AVIX) and 0 < size < _UNKNOWN
    return (head[8:], 8 + size + size % 2) if told else None


def _form_box(reader: Reader, at: int) -> tuple[bytes, int] | None:
    head = reader.at(at, 8)
    size = int.from_bytes(head[4:], "big")
    told = head[:4] == b"FORM" and 0 < size < _UNKNOWN
    return (b"FORM", 8 + size + size % 2) if told else None


def _caf_box(reader: Reader, at: int) -> tuple[bytes, int] | None:
    head = reader.at(at, 12)
    if head.startswith(iff.CAF):
        return iff.CAF, 8
    size = int.from_bytes(head[4:], "big")
    # The length of a chunk is left open by -1.
    return (head[:4], 12 + size) if len(head) == 12 and size < 2**63 else None
