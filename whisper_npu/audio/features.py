"""The log-mel spectrogram of a file of any length, computed as the samples arrive.

openai-whisper appends 30 s of silence to the audio, computes the spectrogram of all of it, and
clamps it to 8 below its maximum. The same numbers come out here without holding the file in memory:
blocks of samples overlap by the part of a frame that reaches into the next block, frames go to a
temporary file, and the clamp is applied to each window as it is read, when the maximum is known.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

import numpy as np

from whisper_npu.audio import HOP_LENGTH, N_FFT, N_FRAMES, SAMPLE_RATE
from whisper_npu.errors import OutputError
from whisper_npu.ops.arrays import F32
from whisper_npu.ops.mel import FLOOR, normalise

# What the frames of pure silence hold.
_SILENCE = np.log10(FLOOR)
# What kernels may differ by in a logarithm.
_ROUNDING = 1e-3

_PADDING = N_FFT // 2
_BLOCK_HOP = N_FRAMES * HOP_LENGTH
_BLOCK_SAMPLES = _BLOCK_HOP - HOP_LENGTH + N_FFT
# Two frames: as many as can reach into audio that ends within a block.
_TAIL_SAMPLES = HOP_LENGTH + N_FFT

# Up to here frames stay in memory, of all channels: 17 minutes at 80 mels.
_SPILL_BYTES = 32 * 2**20


class LogMel:
    """Log-mel frames of one file, kept unnormalised in a temporary file.

    Made by ``compute_log_mel``. A context manager; the temporary file is also removed when the
    object is collected. Not to be used from several threads at once.
    """

    def __init__(self, n_mels: int, n_channels: int = 1) -> None:
        self.n_mels = n_mels
        self.n_samples = 0
        self.maximum = float(_SILENCE)
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
        return self.maximum <= float(_SILENCE) + _ROUNDING

    def _append(self, frames: F32, n_samples: int) -> None:  # [n_mels, t]
        """Add log10 mel frames; those that do not reach into the first ``n_samples`` are silence
        and not stored."""
        self.n_samples = n_samples
        n_audible = (n_samples + _PADDING - 1) // HOP_LENGTH + 1
        frames = frames[:, : n_audible - self._n_stored]
        self.maximum = max(self.maximum, float(frames.max()))
        try:
            self._file.write(np.ascontiguousarray(frames.T).tobytes())
        except OSError as error:
            raise OutputError(
                f"cannot write to the temporary folder {tempfile.gettempdir()} "
                f"({error.strerror}); set TMPDIR to a folder with room"
            ) from error
        self._n_stored += frames.shape[1]

    def window(self, seek: int, size: int | None = None) -> F32:  # -> [n_mels, 3000]
        """Normalised frames ``seek`` to ``seek + size``, padded with zeros to 30 s.

        Frames beyond the audio are not part of a window, so ``size`` may be too large (None: as
        many as there are); with ``size`` or what is left of the audio at 0 or less it is all zeros.
        """
        available = min(N_FRAMES, self.n_frames - seek)
        return self._read(seek, available if size is None else min(size, available), 0)

    def full_window(self, seek: int) -> F32:  # -> [n_mels, 3000]
        """30 s from frame ``seek`` on, with the silence that follows the audio.

        That is what the language is detected from; it differs from ``window(seek)``, where zeros,
        which stand for a level far above silence, follow the audio.
        """
        silence = normalise(np.full((), _SILENCE, np.float32), self.maximum)
        return self._read(seek, min(N_FRAMES, self._n_stored - seek), silence)

    def _read(self, seek: int, size: int, padding: F32 | int) -> F32:
        window = np.empty((self.n_mels, N_FRAMES), np.float32)
        size = max(size, 0)
        window[:, size:] = padding
        if size:
            row = self.n_mels * window.itemsize
            self._file.seek(seek * row)
            frames = np.frombuffer(self._file.read(size * row), np.float32)
            normalise(frames.reshape(size, self.n_mels).T, self.maximum, out=window[:, :size])
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


def compute_log_mel(blocks: Iterable[F32], n_mels: int, log_mel: Callable[[F32], F32]) -> LogMel:
    """Compute the log-mel frames of a stream of samples.

    ``blocks`` are mono float32 samples at 16 kHz, in pieces of any length; ``log_mel`` maps samples
    [160 (t - 1) + 400] to log10 mel [n_mels, t]. It is always called with 30 s of frames, or with
    two where audio ends between the last of them and the end of its samples, so that the result
    does not depend on how the samples were cut. Raises what ``blocks`` raises, and OutputError if
    the temporary file cannot be written.
    """
    return compute_log_mels((block[:, None] for block in blocks), n_mels, log_mel)[0]


def compute_log_mels(
    blocks: Iterable[F32], n_mels: int, log_mel: Callable[[F32], F32]
) -> list[LogMel]:  # [n, channels], ... -> of each channel
    """As ``compute_log_mel``, for each channel. Without any block there is one, which is empty."""
    results: list[LogMel] = []
    overlapping: list[_Overlapping] = []
    try:
        for block in blocks:
            if not results:
                results = [LogMel(n_mels, len(block.T)) for _ in block.T]
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
    return results or [LogMel(n_mels)]


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
