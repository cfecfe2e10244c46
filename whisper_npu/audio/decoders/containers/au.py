"""AU files: their length is often left open, and decoders go on to the end of the file."""

from __future__ import annotations

import struct

from whisper_npu.audio.decoders.containers.part import Part
from whisper_npu.audio.decoders.reader import Reader

_UNKNOWN = 0xFFFFFFFF
# Bytes of the header before its annotation: the samples begin behind them.
_HEAD = 24
# Bytes of a sample by the number of its encoding; 1 and 27 are the telephone's laws.
_SAMPLE_BYTES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}


def parts(reader: Reader) -> list[Part]:
    """The recordings of an AU file; none if it is no such file."""
    found = []
    at = 0
    while reader.at(at, 4) == b".snd" and at + _HEAD <= reader.size:
        head = bytearray(reader.at(at, _HEAD))
        start, length, encoding, rate, channels = struct.unpack(">4x5I", head)
        if start < _HEAD:
            break
        end = at + start + length
        promised = None
        if end > reader.size or reader.at(end, 4) != b".snd":
            if end > reader.size and length != _UNKNOWN:
                bytes_per_second = rate * channels * _SAMPLE_BYTES.get(encoding, 0)
                promised = length / bytes_per_second if bytes_per_second else None
            end = reader.size
            struct.pack_into(">I", head, 8, _UNKNOWN)
        found.append(Part(reader.part(at + len(head), end, bytes(head)), promised=promised))
        at = end
    return found
