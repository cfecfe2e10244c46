"""Decoding with libsndfile."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import soundfile

from whisper_npu.audio.blocks import DecodedBlock
from whisper_npu.audio.decoders.account import block_size
from whisper_npu.audio.decoders.reader import Reader
from whisper_npu.audio.layouts import layout_of

# What libsndfile says of a file whose length it does not know.
_UNKNOWN_LENGTH = 2**63 - 1


class SequentialFile(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file read from start to end.

    soundfile seeks after every read of a seekable file, which fails for FLAC of unknown length, and
    gives nothing of a block with an error in it.
    """

    def __init__(self, reader: Reader, rate: int | None = None, subtype: str | None = None) -> None:
        """``rate`` and ``subtype`` are for files without a header, of one channel."""
        reader.seek(0)
        raw = {"samplerate": rate, "channels": 1, "format": "RAW", "endian": "LITTLE"}
        with quiet_c_stderr():
            super().__init__(reader, subtype=subtype, **(raw if rate is not None else {}))
        self._layout = layout_of(self)

    def seekable(self) -> bool:
        return False

    @property
    def promised(self) -> int | None:
        """The samples that the header tells, as far as libsndfile believes it."""
        return self.frames if 0 < self.frames < _UNKNOWN_LENGTH else None

    def read_block(self, size: int) -> tuple[DecodedBlock, str | None]:
        """Up to ``size`` samples, and what was wrong after them."""
        samples = np.empty((size, self.channels), np.float32)
        values = soundfile._ffi.cast("float *", samples.ctypes.data)
        with quiet_c_stderr():
            n = soundfile._snd.sf_readf_float(self._file, values, size)
        error = None
        if code := soundfile._snd.sf_error(self._file):
            error = soundfile.LibsndfileError(code).error_string.removeprefix("Error : ")
        return DecodedBlock(self.samplerate, samples[: max(n, 0)], self._layout), error

    def blocks(self, block_seconds: float) -> Iterator[tuple[DecodedBlock, str | None]]:
        """All of the file; a block with an error is the last one."""
        size = block_size(self.samplerate, self.channels, block_seconds)
        error = None
        while error is None:
            block, error = self.read_block(size)
            if error is None and not len(block.samples):
                return
            yield block, error


_stderr_lock = threading.Lock()
_silenced = False


def silence_c_stderr() -> None:
    """From now on nothing that C code of libsndfile prints gets to standard error.

    libsndfile has mpg123 in it, which prints what it finds to be wrong. While it runs, file
    descriptor 2 of the process is redirected, so that only a process of our own may ask for it.
    """
    global _silenced
    _silenced = True


@contextmanager
def quiet_c_stderr() -> Iterator[None]:
    """Redirect file descriptor 2 to nowhere, if ``silence_c_stderr`` was called."""
    if not _silenced:
        yield
        return
    with _stderr_lock:
        try:
            kept = os.dup(2)
        except OSError:
            # It is closed.
            yield
            return
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(nowhere, 2)
            finally:
                os.close(nowhere)
            yield
        finally:
            with suppress(OSError):
                os.dup2(kept, 2)
            os.close(kept)
