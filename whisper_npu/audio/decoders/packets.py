"""The packets of one track, through PyAV: decoded one by one, and placed in time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from whisper_npu.audio.blocks import RATES, DecodedBlock
from whisper_npu.audio.decoders.account import Account
from whisper_npu.audio.decoders.frames import Frames

# Errors in a row without a packet between them, after which a file is taken to be at its end.
_ERRORS_IN_A_ROW = 100
# Audio of the lowest rate takes more bytes a second: the least that bytes can hold bounds silence.
_LEAST_BYTES_PER_SECOND = 64.0
_USUAL_BIT_RATE = 64_000
# What bytes stand for is told by so many packets before them.
_LAST_PACKETS = 64
# Bytes may stand for so many times the audio that they stand for elsewhere in the file.
_VARYING = 4
# A container's timestamps are rounded and jitter, those of browsers' recordings by 10 ms and more.
# What is missing is at least part of a packet, in bytes too, unless times say that it is long.
_PART_OF_A_PACKET = 0.75
_ROUNDING = 0.01
_JITTER = 0.1
# Codecs that keep samples of any size.
_AS_THEY_ARE = ("pcm", "wavpack")
# Full scale is 1. Other codecs make more than this of damage only.
_LOUDEST = 1e4
# Timestamps that go back further begin anew: recordings were joined.
_TIMES_BEGIN_ANEW = 1.0
# Demuxers of formats without timestamps: theirs are sums of what they found.
NO_TIMESTAMPS = ("aac", "ac3", "amr", "dts", "eac3", "g722", "gsm", "loas", "mp3", "truehd")


class Packets:
    """Decodes the packets of one track, and puts silence where some are damaged or missing."""

    def __init__(self, container: Any, stream: Any, account: Account) -> None:
        self._container, self._stream, self._account = container, stream, account
        self._has_timestamps = container.format.name not in NO_TIMESTAMPS
        # The file's own time at the account's position 0; in seconds as all times here.
        self._zero: float | None = None
        # Where the first packet is in the file, and the time of the first frame.
        self.first_byte = 0
        self.first_time: float | None = None
        self._packet_seconds = 0.0
        self._tick = float(stream.time_base or 0)
        # The bytes of the file up to the end of the last packet that was whole, and those after it
        # that were not decoded.
        self._has_place = False
        self._end_byte = 0
        self._skipped = 0
        # Of all packets, damaged or not.
        self.n_bytes = 0
        # Of those that are not.
        self.n_decoded = 0
        # Bytes and seconds of the last packets.
        self._last: deque[tuple[int, float]] = deque(maxlen=_LAST_PACKETS)
        self._frames = Frames(account.name)

    def blocks(self) -> Iterator[DecodedBlock]:
        """What each packet holds, and silence."""
        for packet in self._packets():
            self.n_bytes += packet.size
            if packet.duration:
                self._packet_seconds = packet.duration * self._tick
            if not self._has_place and _has_place(packet):
                self._has_place, self._end_byte = True, packet.pos
                self.first_byte = packet.pos
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
                self._account.failed(reason(error))
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
            self._account.failed(reason(error))
            return None
        return frames

    def _start(self, packet: Any) -> None:
        """Count times from a damaged packet, if it is the first."""
        if self._zero is None and packet.pts is not None:
            start = self._stream.start_time
            self._zero = self._tick * (packet.pts if start is None else max(packet.pts, start))

    def _count_bytes(self, packet: Any) -> None:
        self.n_decoded += packet.size
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
            yield from self._fill_to(frame.time, block)
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
            self._account.failed(reason(error))
            return None

    def _is_noise(self, block: DecodedBlock) -> bool:
        """Whether damage made numbers that no sound has; samples as they are may have such."""
        if self._stream.codec_context.name.startswith(_AS_THEY_ARE):
            return False
        # Not so for NaN either.
        return not (block.samples.max() <= _LOUDEST and block.samples.min() >= -_LOUDEST)

    def _fill_to(self, time: float | None, like: DecodedBlock) -> Iterator[DecodedBlock]:
        """Silence up to the time of a frame, if something is missing before it."""
        if time is None:
            return
        if self.first_time is None:
            self.first_time = time
        if self._zero is None:
            self._zero = time
        lag = time - (self._zero + self._account.position)
        part = _PART_OF_A_PACKET * self._packet_seconds
        if lag > max(part, _ROUNDING if self._held() >= part else _JITTER):
            before = self._account.position
            yield from self._account.gap(lag, _VARYING * self._held(), like)
            self._zero += lag - (self._account.position - before)
        elif lag < -_TIMES_BEGIN_ANEW:
            self._zero += lag


def _has_place(packet: Any) -> bool:
    return packet.size > 0 and packet.pos is not None and packet.pos >= 0


def reason(error: BaseException) -> str:
    """What an error of PyAV says."""
    return str(getattr(error, "strerror", None) or error)
