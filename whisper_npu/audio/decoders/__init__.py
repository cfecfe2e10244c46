"""Decoding of audio files by one rule: libsndfile for what it reads, FFmpeg (PyAV) for the rest.

What is damaged is skipped, and silence takes its place, so that later times do not shift. Where one
decoder ends before the file does, the other goes on. What is missing in the end is told by one
warning. Only a file in which nothing can be decoded is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from whisper_npu.audio.blocks import DecodedBlock
from whisper_npu.audio.decoders.recording import Recording
from whisper_npu.errors import AudioError


def decode_file(
    file: IO[bytes], name: str, block_seconds: float, *, audio_track: int | None = None
) -> Iterator[DecodedBlock]:
    """Decode a seekable file in blocks.

    ``audio_track`` counts from 0; None is the file's default. Raises AudioError if nothing can be
    decoded or there is no such track, and warns of what is damaged or missing.
    """
    recording = Recording(file, name, block_seconds, audio_track)
    try:
        yield from recording.blocks()
    except AudioError:
        recording.reader.raise_error(name)
        raise
    recording.reader.raise_error(name)
    recording.account.warn()
