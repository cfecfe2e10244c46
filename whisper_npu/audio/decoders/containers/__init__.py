"""Containers, as far as decoders do not tell what is missing: lengths, damage and joined files."""

from __future__ import annotations

from whisper_npu.audio.decoders.containers import au, boxes, flac, mpeg_audio, ogg, wav
from whisper_npu.audio.decoders.containers.mpeg_frames import tags_end
from whisper_npu.audio.decoders.containers.part import Part
from whisper_npu.audio.decoders.reader import Reader

_KINDS = (mpeg_audio.parts, ogg.parts, wav.parts, flac.parts, au.parts, boxes.parts)

# What some programs put tags before that are meant for MP3. libsndfile takes WAV and AIFF to be
# shorter by the tag, and drops that much of their ends.
_TAGGED = (b"RIFF", b"RF64", b"FORM", b"fLaC")


def parts_of(reader: Reader) -> list[Part]:
    """The parts of a file in their order; the file itself if nothing is known of its container."""
    end = tags_end(reader)
    if end and reader.at(end, 4) in _TAGGED:
        reader = reader.part(end, reader.size)
    for parts in _KINDS:
        if found := parts(reader):
            return found
    return [Part(reader)]
