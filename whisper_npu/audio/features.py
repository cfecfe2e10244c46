"""The log-mel spectrogram of a file of any length, computed as the samples arrive.

openai-whisper appends 30 s of silence to the audio, computes the spectrogram of all of it, and
clamps it to 8 below its maximum. The same numbers come out here without holding the file in memory:
blocks of samples overlap by the part of a frame that reaches into the next block, frames go to a
temporary file, and the clamp is applied to each window as it is read, when the maximum is known.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from whisper_npu.audio import HOP_LENGTH, N_FFT, N_FRAMES, SAMPLE_RATE
from whisper_npu.errors import OutputError
from whisper_npu.model.precision import Precision
from whisper_npu.ops.arrays import F32, I16
from whisper_npu.ops.mel import FLOOR, normalise
from whisper_npu.ops.mel_int import SILENCE, normalise_int16

Frames = F32 | I16


@dataclass(frozen=True)
class _Scale:
    """What the logarithms of frames are held as.

    ``silence`` is what frames of zeros have, and ``rounding`` what kernels may differ by.
    """

    dtype: np.dtype[Any]
    silence: float
    rounding: float
    normalise: Callable[..., Frames]


_SCALES: Mapping[Precision, _Scale] = {
    "float32": _Scale(np.dtype(np.float32), float(np.log10(FLOOR)), 1e-3, normalise),
    "int8": _Scale(np.dtype(np.int16), SILENCE, 0, normalise_int16),
}

_PADDING = N_FFT // 2
_BLOCK_HOP = N_FRAMES * HOP_LENGTH
_BLOCK_SAMPLES = _BLOCK_HOP - HOP_LENGTH + N_FFT
# Two frames: as many as can reach into audio that ends within a block.
_TAIL_SAMPLES = HOP_LENGTH + N_FFT

# Up to here frames stay in memory, of all channels: 17 minutes at 80 mels.
_SPILL_BYTES = 32 * 2**20


class LogMel:
    """Log-mel frames of one file, kept unnormalised in a temporary file.

    Made by ``compute_log_mel``. Frames are float32; of precision ``int8`` they are int16, and
    windows have ``FEATURE_FRACTION`` fraction bits. A context manager; the temporary file is also
    removed when the object is collected. Not to be used from several threads at once.
    """

    def __init__(self, n_mels: int, n_channels: int = 1, precision: Precision = "float32") -> None:
        self.n_mels = n_mels
        self.n_samples = 0
        self._scale = _SCALES[precision]
        self.maximum = self._scale.silence
        self._n_stored = 0
        # Closed by close() or the finalizer: a window is read long after this function.
        self._file = tempfile.SpooledTemporaryFile(max_size=_SPILL_BYTES // n_channels)  # noqa: SIM115
        self._finalizer = weakref.finalize(self, self._file.close)

    @property
    def n_frames(self) -> int:
        """Frames that lie within the audio: one for every 160 samples."""
        return self.n_samples // HOP_LENGTH

    @property
    def duration(self) -> float:
        """Length of the audio in seconds."""
        return self.n_samples / SAMPLE_RATE

    @property
    def is_silent(self) -> bool:
        """Whether nothing is heard in it: all samples are 0."""
        return self.maximum <= self._scale.silence + self._scale.rounding

    def _append(self, frames: Frames, n_samples: int) -> None:  # [n_mels, t]
        """Add log10 mel frames; those that do not reach into the first ``n_samples`` are silence
        and not stored."""
        if frames.dtype != self._scale.dtype:
            raise TypeError(f"frames are {frames.dtype}, not {self._scale.dtype}")
        self.n_samples = n_samples
        n_audible = (n_samples + _PADDING - 1) // HOP_LENGTH + 1
        frames = frames[:, : n_audible - self._n_stored]
        self.maximum = max(self.maximum, frames.max().item())
        try:
            self._file.write(np.ascontiguousarray(frames.T).tobytes())
        except OSError as error:
            raise OutputError(
                f"cannot write to the temporary folder {tempfile.gettempdir()} "
                f"({error.strerror}); set TMPDIR to a folder with room"
            ) from error
        self._n_stored += frames.shape[1]

    def window(self, seek: int, size: int | None = None) -> Frames:  # -> [n_mels, 3000]
        """Normalised frames ``seek`` to ``seek + size``, padded with zeros to 30 s.

        Frames beyond the audio are not part of a window, so ``size`` may be too large (None: as
        many as there are); with ``size`` or what is left of the audio at 0 or less it is all zeros.
        """
        available = min(N_FRAMES, self.n_frames - seek)
        return self._read(seek, available if size is None else min(size, available), 0)

    def full_window(self, seek: int) -> Frames:  # -> [n_mels, 3000]
        """30 s from frame ``seek`` on, with the silence that follows the audio.

        That is what the language is detected from; it differs from ``window(seek)``, where zeros,
        which stand for a level far above silence, follow the audio.
        """
        scale = self._scale
        silence = scale.normalise(np.full((), scale.silence, scale.dtype), self.maximum)
        return self._read(seek, min(N_FRAMES, self._n_stored - seek), silence)

    def _read(self, seek: int, size: int, padding: Frames | int) -> Frames:
        window: Frames = np.empty((self.n_mels, N_FRAMES), self._scale.dtype)
        size = max(size, 0)
        window[:, size:] = padding
        if size:
            row = self.n_mels * window.itemsize
            self._file.seek(seek * row)
            frames = np.frombuffer(self._file.read(size * row), window.dtype)
            frames = frames.reshape(size, self.n_mels).T
            self._scale.normalise(frames, self.maximum, out=window[:, :size])
        return window

    def close(self) -> None:
        """Remove the temporary file."""
        self._finalizer()

    def __enter__(self) -> LogMel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def compute_log_mel(
    blocks: Iterable[F32],
    n_mels: int,
    log_mel: Callable[[F32], Frames],
    precision: Precision = "float32",
) -> LogMel:
    """Compute the log-mel frames of a stream of samples.

    ``blocks`` are mono float32 samples at 16 kHz, in pieces of any length; ``log_mel`` maps samples
    [160 (t - 1) + 400] to log10 mel [n_mels, t] of a precision: float32, or for ``int8`` what
    ``ops.mel_int.log_mel_int16`` gives. It is always called with 30 s of frames, or with
    two where audio ends between the last of them and the end of its samples, so that the result
    does not depend on how the samples were cut. Raises what ``blocks`` raises, and OutputError if
    the temporary file cannot be written.
    """
    return compute_log_mels((block[:, None] for block in blocks), n_mels, log_mel, precision)[0]


def compute_log_mels(
    blocks: Iterable[F32],
    n_mels: int,
    log_mel: Callable[[F32], Frames],
    precision: Precision = "float32",
) -> list[LogMel]:  # [n, channels], ... -> of each channel
    """As ``compute_log_mel``, for each channel. Without any block there is one, which is empty."""
    results: list[LogMel] = []
    overlapping: list[_Overlapping] = []
    try:
        for block in blocks:
            if not results:
                results = [LogMel(n_mels, len(block.T), precision) for _ in block.T]
                overlapping = [_Overlapping() for _ in block.T]
            for samples, cut, result in zip(block.T, overlapping, results, strict=True):
                for frames, n_samples in cut.add(samples):
                    result._append(log_mel(frames), n_samples)
        for cut, result in zip(overlapping, results, strict=True):
            for frames, n_samples in cut.end():
                result._append(log_mel(frames), n_samples)
    except BaseException:
        for result in results:
            result.close()
        raise
    return results or [LogMel(n_mels, precision=precision)]


class _Overlapping:
    """Cuts the padded signal into blocks of 3000 frames; with each, the samples seen so far.

    The signal begins with its samples 1 to 200 mirrored, as frames are centred, and is followed by
    zeros. All blocks share one buffer.
    """

    def __init__(self) -> None:
        self._buffer = np.zeros(_BLOCK_SAMPLES, np.float32)
        self._filled = _PADDING
        self._n_samples = 0
        self._first = True

    def add(self, block: F32) -> Iterator[tuple[F32, int]]:  # [n]
        """The blocks that are full with these samples."""
        buffer = self._buffer
        self._n_samples += len(block)
        while len(block):
            taken = block[: _BLOCK_SAMPLES - self._filled]
            buffer[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            block = block[len(taken) :]
            if self._filled == _BLOCK_SAMPLES:
                self._mirror()
                yield buffer, self._n_samples - len(block)
                self._filled = _BLOCK_SAMPLES - _BLOCK_HOP
                buffer[: self._filled] = buffer[_BLOCK_HOP:]

    def end(self) -> Iterator[tuple[F32, int]]:
        """The blocks that are left when there are no more samples."""
        buffer = self._buffer
        buffer[self._filled :] = 0
        self._mirror()
        if self._n_samples:
            yield buffer, self._n_samples
        if self._filled > _BLOCK_HOP:
            # As after exactly 30 s. They are beyond any window, but may hold the maximum.
            tail = np.zeros(_TAIL_SAMPLES, np.float32)
            tail[: _BLOCK_SAMPLES - _BLOCK_HOP] = buffer[_BLOCK_HOP:]
            yield tail, self._n_samples

    def _mirror(self) -> None:
        """Fill what comes before the first sample, once."""
        if self._first:
            self._buffer[:_PADDING] = self._buffer[2 * _PADDING : _PADDING : -1]
            self._first = False
