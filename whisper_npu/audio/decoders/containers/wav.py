"""WAV and RF64 files: what their headers claim, and what they hold.

Recorders write the lengths when they are done: one that was stopped leaves 0 or the largest number,
and so does what writes to a pipe. Lengths of 32 bits cannot tell more than 4 GiB.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from whisper_npu.audio.decoders.containers.part import Part
from whisper_npu.audio.decoders.reader import Reader

# Lengths from here on stand for "unknown" if the file is shorter: sox writes 2 GiB less a header.
_UNKNOWN = 0x7FFF0000
# With this length and more there is no room for a header in the 32 bits of the whole.
_NO_LENGTH = 0xFFFFFF00
# A header is copied to be put right; one that holds pictures before the audio is not.
_MAX_HEAD = 2**24
# A file of more chunks is hostile.
_MAX_CHUNKS = 10_000
# What follows the audio and is no chunk is audio if it is more than this, in seconds.
_WORTH_HEARING = 0.1


@dataclass(frozen=True)
class _Header:
    kind: bytes
    # Where the samples begin, where the 64-bit lengths of RF64 are, and bytes a second.
    start: int
    long_lengths: int | None
    byte_rate: int
    claimed: int


def parts(reader: Reader) -> list[Part]:
    """The recordings of a WAV or RF64 file; none if it is none, or has no format."""
    found = []
    at = 0
    while at < reader.size:
        rest = reader.part(at, reader.size) if at else reader
        header = _header(rest)
        if header is None or header.byte_rate == 0:
            break
        part, end = _recording(rest, header)
        found.append(part)
        at += end
    return found


def _recording(reader: Reader, header: _Header) -> tuple[Part, int]:
    """The recording at the start of a file, with its lengths put right, and where it ends."""
    left = max(0, reader.size - header.start)
    length, end = header.claimed, reader.size
    if length > left:
        length = left
    else:
        after = None if length >= _NO_LENGTH else _end_of_chunks(reader, header.start + length)
        if after is not None:
            end = after
        elif length == 0 or length >= _UNKNOWN or left - length > _WORTH_HEARING * header.byte_rate:
            length = left
    unknown = 2**63 if header.kind == b"RF64" else _UNKNOWN
    told = 0 < header.claimed < unknown
    claimed, held = header.claimed / header.byte_rate, length / header.byte_rate
    part = reader.part(0, end) if end < reader.size else reader
    if length > header.claimed or (not told and length != header.claimed):
        part = _with_length(reader, header, length, end)
    note = None
    if told and length > header.claimed:
        note = f"its header tells {claimed:.1f} s of the {held:.1f} s of audio that are in it"
    promised = claimed if told and length < header.claimed else None
    return Part(part, promised=promised, read_to_end=False, note=note), end


def _header(reader: Reader) -> _Header | None:
    kind, form = struct.unpack("<4s4x4s", reader.at(0, 12).ljust(12, b"\0"))
    if kind not in (b"RIFF", b"RF64") or form != b"WAVE":
        return None
    at, byte_rate, long_lengths, long_length = 12, 0, None, None
    for _ in range(_MAX_CHUNKS):
        if len(chunk := reader.at(at, 8)) < 8:
            break
        name, length = struct.unpack("<4sI", chunk)
        at += 8
        if name == b"data":
            if long_length is not None and (length == 0xFFFFFFFF or length == 0):
                length = long_length
            return _Header(kind, at, long_lengths, byte_rate, length)
        if name == b"ds64" and kind == b"RF64":
            long_lengths = at
            long_length = struct.unpack("<8xQ", reader.at(at, 16).ljust(16, b"\0"))[0]
        elif name == b"fmt ":
            byte_rate = struct.unpack("<8xI", reader.at(at, 12).ljust(12, b"\0"))[0]
        at += length + length % 2
    return None


def _end_of_chunks(reader: Reader, at: int) -> int | None:
    """Where the chunks that begin at ``at`` end: at another recording or at the end of the file.

    None if there is something else. A chunk of odd length is followed by a byte that does not
    count, which some programs leave out.
    """
    for start in (at + at % 2, at):
        place = start
        for _ in range(_MAX_CHUNKS):
            if place >= reader.size:
                break
            chunk = reader.at(place, 12)
            if chunk[:4] in (b"RIFF", b"RF64") and chunk[8:] == b"WAVE":
                return place
            if chunk[:3] in (b"TAG", b"ID3") or chunk[:8] == b"APETAGEX":
                return reader.size
            if len(chunk) < 8 or not (chunk[:4].isascii() and chunk[:4].decode().isprintable()):
                break
            length = int.from_bytes(chunk[4:8], "little")
            place += 8 + length + length % 2
        if place in (reader.size, reader.size + 1):
            return reader.size
    return None


def _with_length(reader: Reader, header: _Header, length: int, end: int) -> Reader:
    if header.start > _MAX_HEAD:
        return reader.part(0, end)
    head = bytearray(reader.at(0, header.start))
    if header.kind == b"RF64" and header.long_lengths is not None:
        struct.pack_into("<Q", head, header.long_lengths + 8, length)
        struct.pack_into("<I", head, header.start - 4, 0xFFFFFFFF)
    elif length < _NO_LENGTH:
        struct.pack_into("<I", head, header.start - 4, length)
    else:
        struct.pack_into("<I", head, header.start - 4, 0xFFFFFFFF)
        lengths = struct.pack("<4sIQQQI", b"ds64", 28, length + len(head) + 28, length, 0, 0)
        head[:12] = b"RF64\xff\xff\xff\xffWAVE" + lengths
    return reader.part(header.start, end, bytes(head))
