"""Audio in: any source that can be decoded, as mono float32 samples at 16 kHz, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from whisper_npu.audio.arrays import array_blocks
from whisper_npu.audio.blocks import DecodedBlock
from whisper_npu.audio.downmix import mix_to_mono
from whisper_npu.audio.files import decode_file
from whisper_npu.audio.sources import AudioSource, open_audio
from whisper_npu.errors import AudioError, OptionError
from whisper_npu.ops.arrays import F32
from whisper_npu.ops.mel import SAMPLE_RATE

if TYPE_CHECKING:
    import soxr


def stream_audio(
    source: AudioSource, *, sampling_rate: int | None = None, block_seconds: float = 30.0
) -> Iterator[F32]:  # -> [n], [n], ...
    """Decode a source into mono float32 blocks at 16 kHz, in bounded memory.

    ``source`` is a path, ``"-"`` for standard input, the bytes of a file, a binary file object, or
    an array of shape [n] or [n, channels]: floats with full scale at 1, or int16, int32 or uint8,
    which are scaled so. Two channels are averaged, 3 to 8 are mixed as FFmpeg does; other rates are
    resampled. ``sampling_rate`` is that of an array in Hz (default 16000); files know theirs.
    ``block_seconds`` bounds the length of the blocks that are decoded at once.

    The first block raises, or a later one where the damage is: AudioError if the source is missing,
    empty, damaged, not audio, or has a sample that is not finite; OptionError if ``sampling_rate``
    is not a positive integer or is given for a file.
    """
    if isinstance(source, np.ndarray):
        rate = SAMPLE_RATE if sampling_rate is None else sampling_rate
        yield from _to_mono_16k(array_blocks(source, rate, block_seconds), "array")
        return
    if sampling_rate is not None:
        raise OptionError("sampling_rate is for arrays: an audio file states its own; leave it out")
    with open_audio(source) as (file, name):
        yield from _to_mono_16k(decode_file(file, name, block_seconds), name)


def load_audio(source: AudioSource, sampling_rate: int | None = None) -> F32:  # -> [n]
    """All of a source as mono float32 samples at 16 kHz; see ``stream_audio``."""
    blocks = list(stream_audio(source, sampling_rate=sampling_rate))
    return np.concatenate(blocks) if blocks else np.empty(0, np.float32)


def _to_mono_16k(blocks: Iterator[DecodedBlock], name: str) -> Iterator[F32]:
    resampler: soxr.ResampleStream | None = None
    first_rate: int | None = None
    position = 0
    for block in blocks:
        rate, mono = block.rate, mix_to_mono(block.samples, block.layout)
        finite = np.isfinite(mono)
        if not finite.all():
            at = (position + int(finite.argmin())) / rate
            raise AudioError(
                f"{name}: a sample at {at:.3f} s is not a finite number; repair the audio"
            )
        position += len(mono)
        if first_rate is None:
            first_rate = rate
            if rate != SAMPLE_RATE:
                resampler = _resampler(rate, name)
        elif rate != first_rate:
            raise AudioError(
                f"{name}: the sampling rate changes from {first_rate} to {rate} Hz; "
                "convert it to one rate first"
            )
        if resampler is not None:
            mono = resampler.resample_chunk(np.ascontiguousarray(mono))
        if len(mono):
            yield mono
    if resampler is not None:
        rest = resampler.resample_chunk(np.empty(0, np.float32), last=True)
        if len(rest):
            yield rest


def _resampler(rate: int, name: str) -> soxr.ResampleStream:
    # Imported here, as audio made for speech recognition has this rate already.
    import soxr

    try:
        return soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
    except (ValueError, RuntimeError) as error:
        raise AudioError(
            f"{name}: cannot resample from {rate} Hz ({error}); convert it to 16000 Hz first"
        ) from error
