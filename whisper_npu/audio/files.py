"""Decoding of audio files: soundfile for what libsndfile knows, PyAV for the rest if installed."""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any

import numpy as np
import soundfile

from whisper_npu.audio.arrays import scale_to_float
from whisper_npu.audio.blocks import DecodedBlock
from whisper_npu.audio.layouts import layout_of
from whisper_npu.audio.sources import unreadable
from whisper_npu.errors import AudioError
from whisper_npu.ops.arrays import F32

# Samples times channels decoded at once: a header may claim any rate and number of channels.
_BLOCK_VALUES = 2**20
_UNKNOWN_LENGTH = 2**63 - 1


def decode_file(file: IO[bytes], name: str, block_seconds: float) -> Iterator[DecodedBlock]:
    """Decode a seekable file in blocks. Raises AudioError if it is damaged or not audio."""
    reader = _Reader(file)
    try:
        reader.patch = _unclosed_wav(reader)
        yield from _decode(reader, name, block_seconds)
    except AudioError:
        reader.raise_error(name)
        raise


def _decode(reader: _Reader, name: str, block_seconds: float) -> Iterator[DecodedBlock]:
    try:
        decoder = _SequentialFile(reader)
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
    else:
        with decoder:
            yield from _decode_with_soundfile(reader, decoder, name, block_seconds)
        return
    reader.seek(0)
    yield from _decode_with_av(reader, name, block_seconds, reason)


class _Reader:
    """What libsndfile and FFmpeg need of a file, with the bytes at one place replaced by ``patch``.

    It has no name: both would take the format from the name's extension. And it keeps what goes
    wrong, as exceptions do not get through the C code that calls it: a failed read would be the end
    of the file.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._error: BaseException | None = None
        self.patch: tuple[int, bytes] | None = None
        self.seek(0)

    def raise_error(self, name: str) -> None:
        """Raise what went wrong so far: AudioError, or what is no error but an interruption."""
        if isinstance(self._error, Exception):
            raise unreadable(name, self._error) from self._error
        if self._error is not None:
            raise self._error

    def read(self, size: int) -> bytes:
        try:
            start = self._file.tell()
            data = self._file.read(size)
        except BaseException as error:
            self._error = error
            return b""
        if self.patch is not None:
            at, new = self.patch
            if start <= at and at + len(new) <= start + len(data):
                data = data[: at - start] + new + data[at - start + len(new) :]
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        # A damaged header may ask for a place before the start. The caller sees where it is.
        with suppress(ValueError, OSError):
            self._file.seek(offset, whence)
        return self._file.tell()

    def tell(self) -> int:
        return self._file.tell()


def _unclosed_wav(reader: _Reader) -> tuple[int, bytes] | None:
    """Where the length of the data must be replaced because a recorder never filled it in.

    libsndfile reads to the end of the file if the length is too large, but takes 0 for an answer. A
    length of 0 is right only if other chunks, or nothing, follow.
    """
    size = reader.seek(0, os.SEEK_END)
    reader.seek(0)
    try:
        riff, _, wave = struct.unpack("<4sI4s", reader.read(12).ljust(12))
        if riff not in (b"RIFF", b"RF64") or wave != b"WAVE":
            return None
        patch = None
        while len(header := reader.read(8)) == 8:
            kind, length = struct.unpack("<4sI", header)
            at = reader.tell()
            if kind == b"ds64":
                # RF64: lengths of the whole and of the data, 64 bits each
                long_length = struct.unpack("<8xQ", reader.read(16).ljust(16))[0]
                if long_length in (0, 2**64 - 1):
                    patch = at + 8, struct.pack("<Q", size)
            elif kind == b"data" and length == 0:
                patch = at - 4, b"\xff\xff\xff\xff"
            elif kind == b"data" or not (kind.isascii() and kind.decode("ascii").isprintable()):
                return patch
            if reader.seek(at + length + length % 2) > size:
                return patch
        return patch if reader.tell() != size else None
    finally:
        reader.seek(0)


class _SequentialFile(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file read from start to end.

    soundfile seeks after every read of a seekable file and never reads beyond the length in the
    header; the first fails for FLAC of unknown length and the second cuts MP3 of underestimated
    length.
    """

    def seekable(self) -> bool:
        return False


def _decode_with_soundfile(
    reader: _Reader, decoder: _SequentialFile, name: str, block_seconds: float
) -> Iterator[DecodedBlock]:
    rate, promised, layout = decoder.samplerate, decoder.frames, layout_of(decoder)
    size = _block_size(rate, decoder.channels, block_seconds)
    n_read = 0
    while True:
        try:
            block = decoder.read(size, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise _damaged(name, error.error_string.removeprefix("Error : ")) from error
        if not len(block):
            break
        n_read += len(block)
        yield DecodedBlock(rate, block, layout)
    reader.raise_error(name)
    if n_read < promised < _UNKNOWN_LENGTH and decoder.format == "FLAC":
        raise _damaged(name, f"{n_read / rate:.1f} s of the {promised / rate:.1f} s in its header")
    if promised < _UNKNOWN_LENGTH:
        _warn_if_short(name, n_read / rate, promised / rate)


def _block_size(rate: int, channels: int, block_seconds: float) -> int:
    return max(1, min(int(block_seconds * rate), _BLOCK_VALUES // channels))


def _damaged(name: str, reason: str) -> AudioError:
    return AudioError(f"{name}: damaged or cut off ({reason.rstrip('.')}); get a complete copy")


def _warn_if_short(name: str, seconds: float, promised: float) -> None:
    """For formats whose header may be wrong without the file being damaged."""
    if promised - seconds > max(1.0, 0.01 * promised):
        warnings.warn(
            f"{name}: holds {seconds:.1f} s of audio where its header promises {promised:.1f} s; "
            "it may be damaged or cut off",
            stacklevel=2,
        )


def _decode_with_av(
    reader: _Reader, name: str, block_seconds: float, reason: str
) -> Iterator[DecodedBlock]:
    try:
        import av
    except ImportError:
        raise AudioError(
            f"{name}: libsndfile cannot read it ({reason}); if it is audio in another format "
            '(m4a, mp4, webm, ...): pip install "whisper-npu[av]"'
        ) from None
    # PyAV before 19 fails on tags that are not UTF-8 unless told otherwise; 19 cannot be told.
    tolerant = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "ignore"}
    try:
        # A file may name other files and addresses (playlists): none of them is to be opened.
        container = av.open(reader, options={"protocol_whitelist": "none"}, **tolerant)
    except (av.error.FFmpegError, ValueError) as error:
        raise AudioError(
            f"{name}: neither libsndfile ({reason}) nor FFmpeg ({_av_reason(error)}) can read it; "
            "give an audio file"
        ) from error
    with container:
        if not container.streams.audio:
            raise AudioError(f"{name}: holds no audio; give a file with an audio track")
        yield from _av_blocks(reader, container, name, block_seconds)


def _av_blocks(
    reader: _Reader, container: Any, name: str, block_seconds: float
) -> Iterator[DecodedBlock]:
    import av

    gathered: list[F32] = []
    n_gathered, seconds, rate, layout = 0, 0.0, 0, None
    frames = container.decode(audio=0)
    while True:
        try:
            frame = next(frames, None)
        except av.error.FFmpegError as error:
            raise _damaged(name, f"after {seconds:.1f} s: {_av_reason(error)}") from error
        if gathered and (
            frame is None
            or (frame.sample_rate, frame.layout.name) != (rate, layout)
            or n_gathered >= _block_size(rate, gathered[0].shape[1], block_seconds)
        ):
            yield DecodedBlock(rate, np.concatenate(gathered), layout)
            gathered, n_gathered = [], 0
        if frame is None:
            break
        if frame.samples:
            rate, layout = frame.sample_rate, frame.layout.name
            samples = scale_to_float(frame.to_ndarray(), name)
            planar = frame.format.is_planar
            gathered.append(samples.T if planar else samples.reshape(frame.samples, -1))
            n_gathered += frame.samples
            seconds += frame.samples / rate
    reader.raise_error(name)
    if container.duration is not None:
        _warn_if_short(name, seconds, container.duration / av.time_base)


def _av_reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error)
