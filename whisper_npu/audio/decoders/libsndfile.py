"""Decoding with libsndfile, and mpg123 in it, which prints what it finds to be wrong."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import soundfile

from whisper_npu.audio.blocks import DecodedBlock
from whisper_npu.audio.decoders.account import block_size
from whisper_npu.audio.decoders.reader import Reader
from whisper_npu.audio.layouts import layout_of
from whisper_npu.terminal import silent_library

# What libsndfile says of a file whose length it does not know.
_UNKNOWN_LENGTH = 2**63 - 1
_SMALL_BLOCK = 4096


class SequentialFile(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file read from start to end.

    soundfile seeks after every read of a seekable file, which fails for FLAC of unknown length, and
    gives nothing of a block with an error in it.
    """

    def __init__(self, reader: Reader, rate: int | None = None, subtype: str | None = None) -> None:
        """``rate`` and ``subtype`` are for files without a header, of one channel."""
        reader.seek(0)
        raw = {"samplerate": rate, "channels": 1, "format": "RAW", "endian": "LITTLE"}
        with silent_library():
            super().__init__(reader, subtype=subtype, **(raw if rate is not None else {}))
        self._layout, self._order = layout_of(self)

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
        with silent_library():
            n = soundfile._snd.sf_readf_float(self._file, values, size)
        error = None
        if code := soundfile._snd.sf_error(self._file):
            error = soundfile.LibsndfileError(code).error_string.removeprefix("Error : ")
        samples = samples[: max(n, 0)]
        if self._order is not None:
            samples = samples[:, self._order]
        return DecodedBlock(self.samplerate, samples, self._layout), error

    def blocks(
        self, block_seconds: float, past_errors: bool = False
    ) -> Iterator[tuple[DecodedBlock, str | None]]:
        """All of the file, up to the first error or ``past_errors``."""
        size = block_size(self.samplerate, self.channels, block_seconds)
        if past_errors:
            # After an error within a block libsndfile may give nothing more.
            size = min(size, _SMALL_BLOCK)
        while True:
            block, error = self.read_block(size)
            if error is not None or len(block.samples):
                yield block, error
            if not len(block.samples) or (error is not None and not past_errors):
                return
