"""Decoding with FFmpeg through PyAV: packet by packet, past what is damaged."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np

from whisper_npu.audio.blocks import RATES, DecodedBlock
from whisper_npu.audio.decoders.account import Account, block_size
from whisper_npu.audio.decoders.frames import Frames
from whisper_npu.audio.decoders.headerless import Headerless
from whisper_npu.audio.decoders.reader import Reader
from whisper_npu.audio.decoders.tracks import choose_track

# Errors in a row without a packet between them, after which a file is taken to be at its end.
_ERRORS_IN_A_ROW = 100
# Audio of the lowest rate takes more bytes a second: the least that bytes can hold bounds silence.
_LEAST_BYTES_PER_SECOND = 64.0
_USUAL_BIT_RATE = 64_000
# What bytes stand for is told by so many packets before them.
_LAST_PACKETS = 64
# Bytes may stand for so many times the audio that they stand for elsewhere in the file.
_VARYING = 4
# A container's timestamps are rounded and jitter; what is missing is at least part of a packet.
_PART_OF_A_PACKET = 0.75
_JITTER = 0.01
# Timestamps that go back further begin anew: recordings were joined.
_TIMES_BEGIN_ANEW = 1.0
# Demuxers of formats without timestamps: theirs are sums of what they found.
_NO_TIMESTAMPS = ("aac", "ac3", "amr", "dts", "eac3", "g722", "gsm", "loas", "mp3", "truehd")


class NotForFFmpeg(Exception):
    """FFmpeg cannot open the file, or PyAV is not installed; the text is the reason."""


def has_av() -> bool:
    """Whether PyAV is installed. It is imported only where it is needed: that takes time."""
    return find_spec("av") is not None


@contextmanager
def _open(reader: Reader, raw: Headerless | None) -> Iterator[Any]:
    try:
        import av
    except ImportError as error:
        raise NotForFFmpeg(f"PyAV cannot be imported: {error}") from error
    demuxer = None if raw is None else raw.demuxer
    options = {} if raw is None else raw.options
    # PyAV before 19 fails on tags that are not UTF-8 unless told otherwise; 19 cannot be told.
    tolerant = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "ignore"}
    reader.seek(0)
    try:
        # A file may name other files and addresses (playlists): none of them is to be opened.
        container = av.open(
            reader, format=demuxer, options={"protocol_whitelist": "none", **options}, **tolerant
        )
    except (av.error.FFmpegError, ValueError) as error:
        raise NotForFFmpeg(_reason(error)) from error
    with container:
        yield container


def decode_with_ffmpeg(
    reader: Reader,
    account: Account,
    block_seconds: float,
    *,
    track: int | None = None,
    raw: Headerless | None = None,
) -> Iterator[DecodedBlock]:
    """Decode what FFmpeg finds in a file. Raises NotForFFmpeg, and AudioError for a track.

    ``raw`` says how to read a file that does not say what it is.
    """
    with _open(reader, raw) as container:
        stream = choose_track(container, track, account.name)
        if stream.codec_context.name == "flac":
            # Its damaged frames would be noise: FFmpeg heeds checksums only where it is told to.
            stream.codec_context.options = {"err_detect": "crccheck+explode"}
        packets = _Packets(container, stream, account)
        yield from _gathered(packets.blocks(), block_seconds)
        account.compare(packets.promised_seconds())


class _Packets:
    """Decodes the packets of one track, and puts silence where some are damaged or missing."""

    def __init__(self, container: Any, stream: Any, account: Account) -> None:
        self._container, self._stream, self._account = container, stream, account
        self._has_timestamps = container.format.name not in _NO_TIMESTAMPS
        # The file's own time at the account's position 0; in seconds as all times here.
        self._zero: float | None = None
        self._packet_seconds = 0.0
        # The bytes of the file up to the end of the last packet that was whole, and those after it
        # that were not decoded.
        self._has_place = False
        self._end_byte = 0
        self._skipped = 0
        # Bytes and seconds of the last packets.
        self._last: deque[tuple[int, float]] = deque(maxlen=_LAST_PACKETS)
        self._frames = Frames(account.name)

    def blocks(self) -> Iterator[DecodedBlock]:
        """What each packet holds, and silence."""
        for packet in self._packets():
            if packet.duration and packet.time_base:
                self._packet_seconds = float(packet.duration * packet.time_base)
            if not self._has_place and _has_place(packet):
                self._has_place, self._end_byte = True, packet.pos
            frames = self._decode(packet)
            if frames is None:
                self._start(packet)
                continue
            self._count_bytes(packet)
            for frame in frames:
                yield from self._place(frame)

    def _packets(self) -> Iterator[Any]:
        import av

        errors = 0
        while errors < _ERRORS_IN_A_ROW:
            try:
                for packet in self._container.demux(self._stream):
                    errors = 0
                    yield packet
                return
            except (av.error.FFmpegError, ValueError, IndexError) as error:
                # What comes next may be whole. A track that begins within the file has no index.
                self._account.reasons.append(_reason(error))
                errors += 1
        flushing = av.Packet()
        flushing.stream = self._stream
        yield flushing

    def _decode(self, packet: Any) -> list[Any] | None:
        """The frames of a packet, or None if it is damaged."""
        import av

        try:
            frames: list[Any] = packet.decode()
        except (av.error.FFmpegError, ValueError, MemoryError) as error:
            self._account.reasons.append(_reason(error))
            return None
        return frames

    def _start(self, packet: Any) -> None:
        """Count times from a damaged packet, if it is the first."""
        time = _time(packet)
        if self._zero is None and time is not None:
            start = self._stream.start_time
            known = start is not None and self._stream.time_base is not None
            self._zero = max(time, float(start * self._stream.time_base)) if known else time

    def _count_bytes(self, packet: Any) -> None:
        if _has_place(packet):
            self._skipped += max(0, packet.pos - self._end_byte)
            self._end_byte = max(self._end_byte, packet.pos + packet.size)
            self._last.append((packet.size, self._packet_seconds))

    def _held(self) -> float:
        """The audio that the bytes which were not decoded stand for, by the packets before."""
        n_bytes, seconds = map(sum, zip(*self._last, strict=True)) if self._last else (0, 0.0)
        if seconds > 0:
            bytes_per_second = n_bytes / seconds
        else:
            rate = self._stream.codec_context.bit_rate or self._container.bit_rate
            bytes_per_second = (rate or _USUAL_BIT_RATE) / 8
        return self._skipped / max(_LEAST_BYTES_PER_SECOND, bytes_per_second)

    def _place(self, frame: Any) -> Iterator[DecodedBlock]:
        block = self._block(frame)
        if block is None:
            return
        if self._has_timestamps:
            yield from self._fill_to(_time(frame), block)
        elif self._packet_seconds and (packets := round(self._held() / self._packet_seconds)):
            lost = packets * self._packet_seconds
            yield from self._account.gap(lost, lost, block)
        self._skipped = 0
        if self._is_noise(block):
            seconds = len(block.samples) / block.rate
            yield from self._account.gap(seconds, seconds, block)
        else:
            yield self._account.add(block)

    def _block(self, frame: Any) -> DecodedBlock | None:
        """The samples of a frame, or None if there are none that can be used."""
        import av

        if not frame.samples:
            return None
        if frame.sample_rate not in RATES and self._account.decoded:
            # Damage took it for another; where all have it, users are told.
            return None
        try:
            return self._frames.block(frame)
        except (av.error.FFmpegError, ValueError) as error:
            self._account.reasons.append(_reason(error))
            return None

    def _is_noise(self, block: DecodedBlock) -> bool:
        """Whether damage made numbers that are none; samples as they are may have such."""
        if self._stream.codec_context.name.startswith("pcm"):
            return False
        return not bool(np.isfinite(block.samples).all())

    def _fill_to(self, time: float | None, like: DecodedBlock) -> Iterator[DecodedBlock]:
        """Silence up to the time of a frame, if something is missing before it."""
        if time is None:
            return
        if self._zero is None:
            self._zero = time
        lag = time - (self._zero + self._account.position)
        if lag > max(_PART_OF_A_PACKET * self._packet_seconds, _JITTER):
            before = self._account.position
            yield from self._account.gap(lag, _VARYING * self._held(), like)
            self._zero += lag - (self._account.position - before)
        elif lag < -_TIMES_BEGIN_ANEW:
            self._zero += lag

    def promised_seconds(self) -> float | None:
        """The length of the track by the header, or None where there is none to trust."""
        if not self._has_timestamps or "mpeg" in self._container.format.name:
            # Estimated from sizes.
            return None
        stream = self._stream
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        if (tag := stream.metadata.get("DURATION")) is not None:
            return _seconds_of_tag(tag)
        if len(self._container.streams) == 1 and self._container.duration is not None:
            return float(self._container.duration / 1_000_000)
        return None


def _seconds_of_tag(tag: str) -> float | None:
    """Matroska's "00:00:11.008000000" in seconds."""
    try:
        hours, minutes, seconds = map(float, tag.split(":"))
    except ValueError:
        return None
    return 3600 * hours + 60 * minutes + seconds


def _has_place(packet: Any) -> bool:
    return packet.size > 0 and packet.pos is not None and packet.pos >= 0


def _time(timed: Any) -> float | None:
    if timed.pts is None or not timed.time_base:
        return None
    return float(timed.pts * timed.time_base)


def _gathered(blocks: Iterator[DecodedBlock], block_seconds: float) -> Iterator[DecodedBlock]:
    """Blocks of ``block_seconds`` out of those of one packet each."""
    gathered: list[DecodedBlock] = []
    n = 0
    for block in blocks:
        if gathered and (
            (block.rate, block.layout, block.samples.shape[1])
            != (gathered[0].rate, gathered[0].layout, gathered[0].samples.shape[1])
            or n >= block_size(block.rate, block.samples.shape[1], block_seconds)
        ):
            yield _joined(gathered)
            gathered, n = [], 0
        gathered.append(block)
        n += len(block.samples)
    if gathered:
        yield _joined(gathered)


def _joined(blocks: list[DecodedBlock]) -> DecodedBlock:
    samples = np.concatenate([block.samples for block in blocks])
    return DecodedBlock(blocks[0].rate, samples, blocks[0].layout)


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error)
