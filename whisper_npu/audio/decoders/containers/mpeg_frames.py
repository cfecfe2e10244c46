"""The frames of an MP3 file: where recordings that were joined begin, and what is no audio."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from whisper_npu.audio.decoders.reader import Reader

_CHUNK = 2**20
# What follows a place must look like so many frames before it is taken for one after damage.
_FRAMES_IN_A_ROW = 3
# Frames of one bit rate differ by no more bytes.
_PADDING = 4
# After so many places that may begin a frame and do not the rest of a file is not searched.
_PLACES_TRIED = 1_000_000
# A file is not searched further than this for its first frame, in bytes.
_SEARCHED = 2**16

# kbit/s by the four bits of the header; of MPEG 1 in layers 1 to 3, and of MPEG 2 and 2.5.
_V1 = (
    (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
)
_V2 = (
    (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
# Where the header of Fraunhofer's encoder is in a frame.
VBRI = 36
_RATES = (44100, 48000, 32000)


@dataclass(frozen=True)
class Frame:
    """What the header of a frame says: its length in bytes, its samples and their rate in Hz."""

    length: int
    samples: int
    rate: int
    layer: int
    mpeg1: bool


@dataclass(frozen=True)
class Run:
    """Frames that follow each other, from ``start`` to ``end`` in the file.

    ``info`` is the header of an encoder in the first frame, which holds no audio: the offset of its
    "Xing", "Info" or "VBRI" from ``start``, or None; ``frames`` counts those that hold audio;
    ``constant`` says whether all have the same bit rate.
    """

    start: int
    end: int
    frames: int
    frame: Frame
    info: int | None
    constant: bool

    @property
    def seconds(self) -> float:
        return self.frames * self.frame.samples / self.frame.rate


@dataclass(frozen=True)
class Skipped:
    """Bytes that are neither frames nor tags."""

    start: int
    end: int


@lru_cache(maxsize=8192)
def _frame(header: bytes) -> Frame | None:
    """The frame of a header's first three bytes, or None if there is no such frame."""
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bitrate, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if header[0] != 0xFF or header[1] < 0xE0 or version == 1 or layer == 4:
        return None
    if bitrate in (0, 15) or rate == 3:
        return None
    mpeg1 = version == 3
    hz = _RATES[rate] >> {3: 0, 2: 1, 0: 2}[version]
    bits = 1000 * (_V1 if mpeg1 else _V2)[layer - 1][bitrate]
    if layer == 1:
        return Frame((12 * bits // hz + padding) * 4, 384, hz, layer, mpeg1)
    samples = 576 if layer == 3 and not mpeg1 else 1152
    return Frame(samples // 8 * bits // hz + padding, samples, hz, layer, mpeg1)


class _Bytes:
    """The file as a string of bytes that is read piece by piece."""

    def __init__(self, reader: Reader) -> None:
        self._reader, self._start, self._data = reader, 0, b""
        self.size = reader.size
        self.places_tried = 0

    def get(self, at: int, n: int) -> bytes:
        offset = at - self._start
        if offset < 0 or offset + n > len(self._data):
            self._start, self._data = at, self._reader.at(at, max(_CHUNK, n))
            offset = 0
        return self._data[offset : offset + n]


def inspect(reader: Reader) -> list[Run | Skipped]:
    """The frames of a file in runs, and what is between them; nothing if it is no MP3 file.

    A run ends where another recording begins (a frame with an encoder's header, or another rate or
    layer), and where the next frame is not where it should be.
    """
    data = _Bytes(reader)
    at = _after_tags(data, 0)
    # Only a tag says that it is MP3 where no frame is at the start: other formats hold such bytes.
    start = _find(data, at, None, at + (_SEARCHED if at else 1))
    return [] if start is None else list(_parts(data, at, start))


def tags_end(reader: Reader) -> int:
    """Where the ID3 and APE tags at the start of a file end; 0 if there are none."""
    return _after_tags(_Bytes(reader), 0)


def _parts(data: _Bytes, junk: int, at: int) -> Iterator[Run | Skipped]:
    while True:
        if at > junk:
            yield Skipped(junk, at)
        run = _run(data, at)
        yield run
        junk = _after_tags(data, run.end)
        found = _find(data, junk, run.frame, data.size)
        if found is None:
            if junk < data.size:
                yield Skipped(junk, data.size)
            return
        at = found


def _run(data: _Bytes, start: int) -> Run:
    first = _frame(data.get(start, 3))
    assert first is not None
    info = _info(data, start, first)
    at = end = start
    n = 0
    lengths: set[int] = set()
    frame: Frame | None = first
    while frame is not None and at + frame.length <= data.size:
        if n and (frame.rate, frame.layer) != (first.rate, first.layer):
            break
        if n and _info(data, at, frame) is not None:
            break
        at = end = at + frame.length
        n += 1
        lengths.add(frame.length)
        header = data.get(at, 3)
        if header in (b"ID3", b"TAG"):
            # Streams have such tags between their frames; mpg123 passes over them.
            at = _after_tags(data, at)
            header = data.get(at, 3)
        frame = _frame(header) if len(header) == 3 else None
    constant = bool(lengths) and max(lengths) - min(lengths) <= _PADDING
    return Run(start, end, n - (info is not None), first, info, constant)


def _info(data: _Bytes, at: int, frame: Frame) -> int | None:
    """Where in a frame an encoder's header is."""
    start = data.get(at, VBRI + 4)
    # Of all frames few have one of these words.
    if frame.layer != 3 or not (b"Xing" in start or b"Info" in start or b"VBRI" in start):
        return None
    offset = info_offset(frame, start[3] >= 0xC0)
    if start[offset : offset + 4] in (b"Xing", b"Info"):
        return offset
    return VBRI if start[VBRI:] == b"VBRI" else None


def info_offset(frame: Frame, mono: bool) -> int:
    """Where an encoder's header is in a frame of layer 3."""
    return 4 + ((17 if mono else 32) if frame.mpeg1 else (9 if mono else 17))


def _after_tags(data: _Bytes, at: int) -> int:
    """The place after ID3 and APE tags."""
    while True:
        head = data.get(at, 32)
        if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 128:
            length = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
            at += length + (10 if head[5] & 0x10 else 0)
        elif head[:3] == b"TAG" and at + 128 <= data.size:
            at += 128
        elif head[:8] == b"APETAGEX" and len(head) == 32:
            size, flags = struct.unpack("<I4xI", head[12:24])
            # A header is followed by items and footer; a footer alone is 32 bytes.
            at += 32 + (size if flags & 0x20000000 else 0)
        else:
            return at


def _find(data: _Bytes, at: int, like: Frame | None, limit: int) -> int | None:
    """The first frame from ``at`` to ``limit`` that others follow, or the end of the file."""
    limit = min(limit, data.size)
    while at < limit:
        piece = data.get(at, min(4096, limit - at))
        if not piece:
            # The file has become shorter.
            return None
        offset = piece.find(b"\xff")
        if offset < 0:
            at += len(piece)
            continue
        at += offset
        data.places_tried += 1
        if data.places_tried > _PLACES_TRIED:
            return None
        if _is_frame(data, at, like):
            return at
        at += 1
    return None


def _is_frame(data: _Bytes, at: int, like: Frame | None) -> bool:
    """Whether frames follow each other from here, or one does up to the end of the file."""
    previous: Frame | None = None
    for _ in range(_FRAMES_IN_A_ROW):
        if at == data.size or data.get(at, 3) in (b"TAG", b"ID3", b"APE"):
            return True
        header = data.get(at, 3)
        frame = _frame(header) if len(header) == 3 else None
        if frame is None or at + frame.length > data.size:
            return False
        if like is not None and frame.layer != like.layer:
            return False
        if previous is not None and (frame.layer, frame.rate) != (previous.layer, previous.rate):
            return False
        previous = frame
        at += frame.length
    return True
