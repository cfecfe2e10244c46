"""Audio files made for tests, as bytes."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence

import numpy as np
import soundfile


def encode(samples: np.ndarray, rate: int, file_format: str, subtype: str | None = None) -> bytes:
    """A file of ``samples`` [n] or [n, channels] in a format that libsndfile writes."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=file_format, subtype=subtype)
    return file.getvalue()


def encode_with_av(samples: np.ndarray, rate: int, container: str, codec: str) -> bytes:
    """A file of mono ``samples`` in a container that only FFmpeg knows."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    return file.getvalue()


def encode_tracks(tracks: Sequence[np.ndarray], rate: int, container: str, codec: str) -> bytes:
    """A file with a mono track for each array of samples, side by side as they are recorded."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        streams = [output.add_stream(codec, rate=rate, layout="mono") for _ in tracks]
        for stream in streams:
            stream.bit_rate = 64000
        for at in range(0, max(map(len, tracks)), rate // 10):
            for stream, samples in zip(streams, tracks, strict=True):
                part = samples[at : at + rate // 10]
                if len(part):
                    frame = av.AudioFrame.from_ndarray(part[None], format="flt", layout="mono")
                    frame.sample_rate, frame.pts = rate, at
                    output.mux(stream.encode(frame))
        for stream in streams:
            output.mux(stream.encode(None))
    return file.getvalue()


def with_data_length(wav: bytes, length: int, riff_length: int | None = None) -> bytes:
    """The same wav with other lengths in its header."""
    at = wav.index(b"data") + 4
    result = wav[:at] + struct.pack("<I", length) + wav[at + 4 :]
    if riff_length is not None:
        result = result[:4] + struct.pack("<I", riff_length) + result[8:]
    return result
