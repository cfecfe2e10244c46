"""AIFF and CAF files: whether there is more audio than the length of its chunk tells."""

from __future__ import annotations

from whisper_npu.audio.decoders.containers.part import Part
from whisper_npu.audio.decoders.reader import Reader

CAF = b"caff\0\1\0\0"
# More chunks are not looked at; a header is copied to be put right, and a large one is not.
_MAX_CHUNKS = 10_000
_MAX_HEAD = 2**24
# Fewer bytes after the audio are no audio.
_WORTH_HEARING = 4096


def whole(reader: Reader) -> Part:
    """The recording at the start of a file: if it is AIFF or CAF, with all of its audio."""
    audio = _audio(reader)
    if audio is None:
        return Part(reader)
    start, length, width = audio
    left = reader.size - start
    end = start + length + (length % 2 if width == 4 else 0)
    if left - length <= _WORTH_HEARING or start > _MAX_HEAD or _are_chunks(reader, end, width):
        return Part(reader)
    head = bytearray(reader.at(0, start))
    head[start - width : start] = left.to_bytes(width, "big")
    note = f"its header tells {length} of the {left} bytes of audio that are in it"
    return Part(reader.part(start, reader.size, bytes(head)), note=note)


def _audio(reader: Reader) -> tuple[int, int, int] | None:
    """Where the chunk of audio begins, its length, and the bytes that a length takes."""
    head = reader.at(0, 12)
    if head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        at, width, name = 12, 4, b"SSND"
    elif head.startswith(CAF):
        at, width, name = 8, 8, b"data"
    else:
        return None
    for _ in range(_MAX_CHUNKS):
        chunk = reader.at(at, 4 + width)
        length = int.from_bytes(chunk[4:], "big")
        at += 4 + width
        if len(chunk) < 4 + width or at + length > reader.size:
            return None
        if chunk[:4] == name:
            return at, length, width
        at += length + (length % 2 if width == 4 else 0)
    return None


def _are_chunks(reader: Reader, at: int, width: int) -> bool:
    """Whether chunks follow each other from a place to the end of the file."""
    for _ in range(_MAX_CHUNKS):
        if at in (reader.size, reader.size + 1):
            return True
        chunk = reader.at(at, 4 + width)
        if len(chunk) < 4 + width or not (chunk[:4].isascii() and chunk[:4].decode().isprintable()):
            return False
        length = int.from_bytes(chunk[4:], "big")
        at += 4 + width + length + (length % 2 if width == 4 else 0)
    return False
