"""Recordings of all formats: finite samples in bounded time and memory, or an AudioError.

An input is a name, for its extension, a line, and the content of the file.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from random import Random

import numpy as np

from tests.fuzz.audio_mutations import mutate_audio
from tests.fuzz.audio_seeds import audio_seeds as seeds
from tests.fuzz.targets.readers import check_message
from whisper_npu.audio import SAMPLE_RATE
from whisper_npu.audio.stream import stream_audio, stream_channels
from whisper_npu.errors import AudioError
from whisper_npu.ops.arrays import F32

SECONDS = 10.0
# Seeds have 0.2 s. Damage may make more of them, but not hours out of nothing.
_LONGEST = 3600


def mutate(chance: Random) -> bytes:
    """A seed, damaged; some are not."""
    name = chance.choice(list(seeds()))
    content = seeds()[name]
    if chance.random() < 0.98:
        content = mutate_audio(content, tuple(seeds().values()), chance)
    return f"{name}\n".encode() + content


class _Upload:
    """A source that can be read and nothing else."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)


@contextmanager
def _without_av() -> Iterator[None]:
    """As where PyAV is not installed."""
    av = sys.modules.pop("av", None)
    sys.modules["av"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["av"]
        if av is not None:
            sys.modules["av"] = av


def _blocks(path: Path, content: bytes) -> Iterator[F32]:
    match len(content) % 8:
        case 0:
            return stream_audio(content)
        case 1:
            return stream_audio(_Upload(content))
        case 2:
            return stream_audio(path, channel=1)
        case 3:
            return stream_audio(path, audio_track=len(content) // 8 % 3)
        case 4:
            return stream_channels(path)
        case 5:
            return stream_audio(path, block_seconds=0.01)
        case _:
            return stream_audio(path)


def check(data: bytes, folder: Path) -> str:
    """Decode a file as a user may ask for it, which the length of the input chooses."""
    name, _, content = data.partition(b"\n")
    path = folder / name.decode()
    path.write_bytes(content)
    samples = 0
    hidden = len(content) % 8 == 6
    try:
        with (
            warnings.catch_warnings(record=True) as told,
            _without_av() if hidden else nullcontext(),
        ):
            warnings.simplefilter("always")
            for block in _blocks(path, content):
                assert block.dtype == np.float32, block.dtype
                assert np.isfinite(block).all(), "a sample that is no number"
                samples += len(block)
                assert samples <= _LONGEST * SAMPLE_RATE, f"{samples / SAMPLE_RATE} s"
    except AudioError as error:
        check_message(error)
        return "refused"
    finally:
        path.unlink()
    for warning in told:
        if warning.category is not DeprecationWarning:
            assert warning.category is UserWarning, warning
            # The command escapes what cannot be shown.
            assert 0 < len(str(warning.message)) <= 1_000, str(warning.message)[:300]
    return "warned" if told else "read"
