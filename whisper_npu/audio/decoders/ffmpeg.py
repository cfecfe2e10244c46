"""Decoding with FFmpeg through PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any

import numpy as np

from whisper_npu.audio.blocks import DecodedBlock
from whisper_npu.audio.decoders.account import Account, block_size
from whisper_npu.audio.decoders.containers.boxes import media_bytes
from whisper_npu.audio.decoders.containers.mpeg_frames import tags_end
from whisper_npu.audio.decoders.headerless import Headerless
from whisper_npu.audio.decoders.packets import NO_TIMESTAMPS, Packets, reason
from whisper_npu.audio.decoders.reader import Reader
from whisper_npu.audio.decoders.tracks import choose_track

# Formats whose durations are the times at which tracks end, also of those that begin late.
_DURATIONS_FROM_ZERO = ("matroska,webm", "asf")

# Formats in which there is nothing but packets, and tags.
_PACKETS_ONLY = ("aac", "ac3", "amr", "dts", "eac3", "loas")
# A file whose last packet is before this part of its length is cut.
_MOST = 0.8


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
        raise NotForFFmpeg(reason(error)) from error
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
        packets = Packets(container, stream, account)
        yield from _gathered(packets.blocks(), block_seconds)
        promised = _promised_seconds(container, stream, account.position)
        if promised is not None and container.format.name in _DURATIONS_FROM_ZERO:
            promised -= _late_start(container, packets, account.position, reader.size)
        account.compare(promised)
        if len(container.streams) == 1 and not account.gaps and not account.notes:
            account.compare_bytes(packets.n_bytes, media_bytes(reader))
            if container.format.name in _PACKETS_ONLY:
                account.compare_end(packets.n_decoded, reader.size - tags_end(reader))


def _promised_seconds(container: Any, stream: Any, held: float) -> float | None:
    """The length of the track by the header, or None where there is none to trust.

    That of the whole file is one if this track, after the seconds ``held``, and all others end
    long before it.
    """
    if container.format.name in NO_TIMESTAMPS or "mpeg" in container.format.name:
        # Estimated from sizes.
        return None
    # Most containers have one duration for all of their tracks.
    own = len(container.streams) == 1 or "mp4" in container.format.name
    if own and stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if (tag := stream.metadata.get("DURATION")) is not None:
        return _seconds_of_tag(tag)
    if container.duration is None:
        return None
    whole = float(container.duration / 1_000_000)
    is_cut = held < _MOST * whole and _last_time(container) < _MOST * whole
    return whole if own or is_cut else None


def _last_time(container: Any) -> float:
    """When the last packet of all tracks begins, in seconds."""
    import av

    last = 0.0
    with suppress(av.error.FFmpegError, ValueError):
        container.seek(0)
        for packet in container.demux():
            if packet.pts is not None:
                last = max(last, float(packet.pts * packet.time_base))
    return last


def _late_start(container: Any, packets: Packets, seconds: float, size: int) -> float:
    """When the track begins, in seconds; 0 where what was before it may have been lost.

    A track may begin after another one. Where all begin late, the bytes before the first packet
    tell: if they are as many as other packets take for that time, packets were there.
    """
    late = packets.first_time or 0.0
    if late <= 0.0 or (container.start_time or 0) / 1_000_000 < late / 2:
        return max(0.0, late)
    return 0.0 if packets.first_byte * seconds > (size - packets.first_byte) * late / 2 else late


def _seconds_of_tag(tag: str) -> float | None:
    """Matroska's "00:00:11.008000000" in seconds."""
    try:
        hours, minutes, seconds = map(float, tag.split(":"))
    except ValueError:
        return None
    return 3600 * hours + 60 * minutes + seconds


def _gathered(blocks: Iterator[DecodedBlock], block_seconds: float) -> Iterator[DecodedBlock]:
    """Blocks of ``block_seconds`` out of those of one packet each."""
    gathered: list[DecodedBlock] = []
    kind: tuple[int, str | None, int] | None = None
    n = size = 0
    for block in blocks:
        if gathered and (n >= size or _kind(block) != kind):
            yield _joined(gathered)
            gathered, n = [], 0
        if not gathered:
            kind = _kind(block)
            size = block_size(block.rate, block.samples.shape[1], block_seconds)
        gathered.append(block)
        n += len(block.samples)
    if gathered:
        yield _joined(gathered)


def _kind(block: DecodedBlock) -> tuple[int, str | None, int]:
    return block.rate, block.layout, block.samples.shape[1]


def _joined(blocks: list[DecodedBlock]) -> DecodedBlock:
    samples = np.concatenate([block.samples for block in blocks])
    return DecodedBlock(blocks[0].rate, samples, blocks[0].layout)
