"""Audio in: any source that can be decoded, as mono float32 samples at 16 kHz, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import groupby
from operator import attrgetter

import numpy as np

from whisper_npu.audio.arrays import array_blocks, as_array
from whisper_npu.audio.blocks import RATES, DecodedBlock
from whisper_npu.audio.channels import Each, Mix, One, Pick
from whisper_npu.audio.decoders import decode_file
from whisper_npu.audio.levels import Levels
from whisper_npu.audio.sources import AudioSource, open_audio
from whisper_npu.errors import AudioError, OptionError
from whisper_npu.ops.arrays import F32
from whisper_npu.ops.mel import SAMPLE_RATE
from whisper_npu.values import EACH_CHANNEL, Channel, checked_channel


def stream_audio(
    source: AudioSource,
    *,
    sampling_rate: int | None = None,
    channel: Channel = None,
    audio_track: int | None = None,
    block_seconds: float = 30.0,
) -> Iterator[F32]:  # -> [n], [n], ...
    """Decode a source into mono float32 blocks at 16 kHz, in bounded memory.

    ``source`` is a path, ``"-"`` for standard input, the bytes of a file, a file object or upload
    with a ``read`` that gives bytes, or an array of shape [n] or [n, channels]: floats with full
    scale at 1, or int16, int32 or uint8, which are scaled so. Tensors and buffers of numbers are
    arrays too. ``channel`` is the one to take: its number from 0, ``"left"`` (0) or
    ``"right"`` (1). Without it two channels are averaged, and 3 to 8 are mixed as FFmpeg does;
    other rates are resampled. ``sampling_rate`` is that of an array in Hz (default 16000); files
    know theirs. ``audio_track`` is the number of the track of a file, from 0; without it FFmpeg's
    default is taken, and a warning names the others. ``block_seconds`` bounds the length of the
    blocks that are decoded at once.

    The first block raises, or a later one: AudioError if the source is missing, empty or not audio,
    nothing in it can be decoded, it has no such channel or track, a sample that is not finite or
    beyond 1e9, or a rate below 1,000 or above 768,000 Hz; OptionError if ``sampling_rate`` is not a
    positive integer or is given for a file, ``audio_track`` is given for an array, or ``channel``
    is no channel. Warns of samples far beyond full scale, of channels that cancel each other when
    they are mixed, and of audio that is damaged or missing: silence takes its place.
    """
    channel = checked_channel(channel)
    if channel == EACH_CHANNEL:
        raise OptionError("channel: each is for a Transcriber; give the number of one")
    with ExitStack() as opened:
        blocks, name = _decode(source, sampling_rate, audio_track, block_seconds, opened)
        pick: Pick = Mix(name) if channel is None else One(channel, name)
        yield from _to_16k(blocks, name, pick)


def stream_channels(
    source: AudioSource,
    *,
    sampling_rate: int | None = None,
    audio_track: int | None = None,
    block_seconds: float = 30.0,
) -> Iterator[F32]:  # -> [n, channels], [n, channels], ...
    """As ``stream_audio``, but each channel on its own.

    The channels are as many as there are at the start: later ones that are missing are silent.
    """
    with ExitStack() as opened:
        blocks, name = _decode(source, sampling_rate, audio_track, block_seconds, opened)
        yield from _to_16k(blocks, name, Each(name))


def load_audio(
    source: AudioSource,
    sampling_rate: int | None = None,
    channel: Channel = None,
    audio_track: int | None = None,
) -> F32:  # -> [n]
    """All of a source as mono float32 samples at 16 kHz; see ``stream_audio``."""
    stream = stream_audio(
        source, sampling_rate=sampling_rate, channel=channel, audio_track=audio_track
    )
    blocks = list(stream)
    return np.concatenate(blocks) if blocks else np.empty(0, np.float32)


def _decode(
    source: AudioSource,
    sampling_rate: int | None,
    audio_track: int | None,
    block_seconds: float,
    opened: ExitStack,
) -> tuple[Iterator[DecodedBlock], str]:
    """The blocks of a source, and a name for it."""
    array = as_array(source)
    if array is not None:
        if audio_track is not None:
            raise OptionError("audio_track is for files: an array has no tracks; leave it out")
        rate = SAMPLE_RATE if sampling_rate is None else sampling_rate
        return array_blocks(array, rate, block_seconds), "array"
    if sampling_rate is not None:
        raise OptionError("sampling_rate is for arrays: an audio file states its own; leave it out")
    file, name = opened.enter_context(open_audio(source))
    return decode_file(file, name, block_seconds, audio_track=audio_track), name


def _to_16k(blocks: Iterator[DecodedBlock], name: str, pick: Pick) -> Iterator[F32]:
    levels = Levels(name)
    n = 0
    # A part with another rate is resampled on its own, as FFmpeg does.
    for rate, part in groupby(blocks, attrgetter("rate")):
        if rate not in RATES:
            raise AudioError(
                f"{name}: a sampling rate of {rate} Hz is not one of {RATES[0]} to {RATES[-1]} "
                "Hz; give the audio its true rate"
            )
        start = n / SAMPLE_RATE
        samples = levels.checked(map(pick, part), start, rate)
        if rate != SAMPLE_RATE:
            # Between its samples a signal may reach higher than they do.
            samples = levels.checked(_resampled(samples, rate, name), start, SAMPLE_RATE)
        for each in samples:
            n += len(each)
            if len(each):
                yield each
    levels.warn()
    pick.warn()


def _resampled(blocks: Iterator[F32], rate: int, name: str) -> Iterator[F32]:
    # Imported here, as audio made for speech recognition is not resampled.
    import soxr

    resampler = None
    for samples in blocks:
        try:
            resampler = resampler or soxr.ResampleStream(
                rate, SAMPLE_RATE, *(samples.shape[1:] or (1,)), dtype="float32"
            )
        except (ValueError, RuntimeError) as error:
            raise AudioError(
                f"{name}: cannot resample from {rate} Hz ({error}); convert it to 16000 Hz first"
            ) from error
        yield resampler.resample_chunk(np.ascontiguousarray(samples))
    if resampler is not None:
        yield resampler.resample_chunk(np.empty((0, *samples.shape[1:]), np.float32), last=True)
