"""FLAC files whose headers tell a wrong length, and such that were joined."""

from __future__ import annotations

from whisper_npu.audio.decoders.containers.part import Part
from whisper_npu.audio.decoders.reader import Reader

_CHUNK = 2**20
# The marker, with the header of the block that must follow it, which may be the last one.
_STARTS = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")
# Where the block has the rate (20 bits), channels, bits and number of samples (36 bits).
_LENGTHS = slice(18, 26)


def parts(reader: Reader) -> list[Part]:
    """A FLAC file without the number of samples, at which libFLAC would end; none if it is none."""
    head = bytearray(reader.at(0, _LENGTHS.stop))
    if not head.startswith(_STARTS) or len(head) < _LENGTHS.stop:
        return []
    lengths = int.from_bytes(head[_LENGTHS], "big")
    rate, samples = lengths >> 44, lengths & (2**36 - 1)
    head[_LENGTHS] = (lengths - samples).to_bytes(8, "big")
    promised = samples / rate if samples and rate else None
    return [
        Part(reader.part(len(head), reader.size, bytes(head)), promised=promised, read_to_end=False)
    ]


def next_start(reader: Reader) -> int | None:
    """Where the next recording begins after the one at the start, or None."""
    at = 1
    while len(piece := reader.at(at, _CHUNK)) >= 8:
        found = [i for start in _STARTS if (i := piece.find(start)) >= 0]
        if found:
            return at + min(found)
        at += len(piece) - 7
    return None
