"""Audio files of many containers, and what happens to files: damage, cuts, joining, lying headers.

Files are encoded by PyAV, and damage is seeded: the same versions make the same files.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

from tests.support.audio_samples import encode

SPEECH = Path(__file__).parents[2] / "samples/jfk.flac"
# Values that lengths, durations and counts of a header are set to, as parts of what is there, or as
# the lowest and the highest number.
LIES = (0.25, 0.5, 0.9, 1.1, 2.0, 100.0, 0, -1)


@dataclass(frozen=True)
class Field:
    """A number in a header: ``offset`` bytes after ``marker``."""

    marker: bytes
    offset: int
    width: int = 4
    order: str = "big"


@dataclass(frozen=True)
class Container:
    """How a file is made, and the numbers in its header that may lie."""

    muxer: str
    codec: str
    extension: str
    rate: int = 16000
    options: dict[str, str] = field(default_factory=dict)
    fields: tuple[Field, ...] = ()
    bit_rate: int | None = None


def _little(marker: bytes, offset: int, width: int = 4) -> Field:
    return Field(marker, offset, width, "little")


_MP4 = (
    Field(b"mvhd", 16),
    Field(b"mvhd", 20),
    Field(b"tkhd", 24),
    Field(b"mdhd", 16),
    Field(b"mdhd", 20),
    Field(b"mdat", -4),
    Field(b"stsz", 8),
    Field(b"stts", 8),
)
CONTAINERS = {
    "wav": Container("wav", "pcm_s16le", "wav", fields=(_little(b"RIFF", 4), _little(b"data", 4))),
    "rf64": Container(
        "wav",
        "pcm_s16le",
        "wav",
        options={"rf64": "always"},
        fields=(_little(b"ds64", 8, 8), _little(b"ds64", 16, 8), _little(b"ds64", 24, 8)),
    ),
    "w64": Container(
        "w64", "pcm_s16le", "w64", fields=(_little(b"riff", 16, 8), _little(b"data", 16, 8))
    ),
    "aiff": Container(
        "aiff",
        "pcm_s16be",
        "aiff",
        fields=(Field(b"FORM", 4), Field(b"COMM", 10), Field(b"SSND", 4)),
    ),
    "au": Container("au", "pcm_s16be", "au", fields=(Field(b".snd", 8),)),
    "caf": Container("caf", "pcm_s16be", "caf", fields=(Field(b"data", 4, 8),)),
    "flac": Container("flac", "flac", "flac", fields=(Field(b"fLaC", 22),)),
    "mp3": Container("mp3", "libmp3lame", "mp3", fields=(Field(b"Info", 8), Field(b"Info", 12))),
    "ogg": Container("ogg", "vorbis", "ogg"),
    "opus": Container("ogg", "libopus", "opus", rate=48000),
    "m4a": Container("ipod", "aac", "m4a", fields=_MP4),
    "mp4": Container("mp4", "aac", "mp4", options={"movflags": "faststart"}, fields=_MP4),
    "mp4 in fragments": Container(
        "mp4",
        "aac",
        "mp4",
        options={"movflags": "frag_keyframe+empty_moov", "frag_duration": "1000000"},
        fields=(Field(b"mvhd", 16), Field(b"mdat", -4), Field(b"tfdt", 8), Field(b"trun", 4)),
    ),
    "mkv": Container(
        "matroska",
        "flac",
        "mkv",
        fields=(Field(b"\x18\x53\x80\x67", 4, 8), Field(b"\x44\x89\x88", 3, 8)),
    ),
    "webm": Container(
        "webm",
        "libopus",
        "webm",
        rate=48000,
        fields=(Field(b"\x18\x53\x80\x67", 4, 8), Field(b"\x44\x89\x88", 3, 8)),
    ),
    "ac3": Container("ac3", "ac3", "ac3", rate=48000),
    "asf": Container(
        "asf",
        "wmav2",
        "wma",
        rate=44100,
        bit_rate=64000,
        fields=(
            _little(bytes.fromhex("A1DCAB8C47A9CF118EE400C00C205365"), 40, 8),
            _little(bytes.fromhex("A1DCAB8C47A9CF118EE400C00C205365"), 64, 8),
            _little(bytes.fromhex("A1DCAB8C47A9CF118EE400C00C205365"), 56, 8),
        ),
    ),
    "ts": Container("mpegts", "aac", "ts", rate=48000),
    "aac": Container("adts", "aac", "aac"),
    "amr": Container("amr", "libopencore_amrnb", "amr", rate=8000, bit_rate=12200),
}


@cache
def speech() -> tuple[np.ndarray, int]:
    """Eleven seconds of speech [n] and their rate in Hz."""
    samples, rate = soundfile.read(SPEECH, dtype="float32", always_2d=True)
    return samples.mean(axis=1), rate


@cache
def encoded(name: str, seconds: float = 11.0) -> bytes:
    """The first seconds of the speech in the container of this name."""
    container = CONTAINERS[name]
    samples, rate = speech()
    samples = samples[: int(seconds * rate)]
    if container.codec == "vorbis":
        # FFmpeg's own encoder is an experiment.
        return encode(samples, rate, "OGG", "VORBIS")
    with tempfile.TemporaryDirectory() as folder:
        # Some muxers read again what they wrote, by its name.
        path = Path(folder, f"x.{container.extension}")
        _write(path, container, samples, rate)
        return path.read_bytes()


def _write(path: Path, container: Container, samples: np.ndarray, rate: int) -> None:
    import av

    with av.open(str(path), "w", format=container.muxer, options=container.options) as output:
        stream = output.add_stream(container.codec, rate=container.rate, layout="mono")
        if container.bit_rate is not None:
            stream.bit_rate = container.bit_rate
        resampler = av.AudioResampler(stream.format.name, "mono", container.rate)
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        fifo = av.AudioFifo()
        for each in [*resampler.resample(frame), *resampler.resample(None)]:
            fifo.write(each)
        size = stream.codec_context.frame_size or 1024
        while (part := fifo.read(size, partial=True)) is not None:
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))


def damaged(data: bytes, name: str, seed: int) -> bytes:
    """One place of 1 to 2,000 random bytes."""
    rng = random.Random(f"{name} {seed}")
    at = rng.randrange(len(data))
    length = min(len(data) - at, int(2000 ** rng.random()))
    return data[:at] + rng.randbytes(length) + data[at + length :]


def truncated(data: bytes, seed: int, of: int) -> bytes:
    """The first ``seed`` + 1 of ``of`` + 1 equal parts."""
    return data[: (seed + 1) * len(data) // (of + 1)]


def joined(name: str) -> Iterator[bytes]:
    """Files of the container one after the other, without and with a tag between them."""
    whole, part = encoded(name), encoded(name, 4.0)
    tag = b"ID3\x04\0\0\0\0\0\x0a" + b"TIT2\0\0\0\0\0\0"
    yield whole + part
    yield part + whole
    yield part + part + whole
    if name in ("mp3", "aac"):
        yield part + tag + whole
        yield tag + part + tag + part + b"TAG" + bytes(125)


def lying(name: str) -> Iterator[tuple[str, bytes]]:
    """Files whose headers tell wrong numbers, with what they tell."""
    data = encoded(name)
    for each in CONTAINERS[name].fields:
        at = data.index(each.marker) + each.offset
        true = int.from_bytes(data[at : at + each.width], each.order)
        limit = 256**each.width - 1
        for lie in LIES:
            told = limit if lie == -1 else min(limit, int(true * lie))
            number = told.to_bytes(each.width, each.order)
            yield (
                f"{each.marker!r}+{each.offset}: {told}",
                data[:at] + number + data[at + each.width :],
            )
