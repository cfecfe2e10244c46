"""Recordings of all formats: finite samples in bounded time and memory, or an AudioError.

An input is a name, for its extension, a line, and the content of the file.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from random import Random

import numpy as np

from tests.fuzz.audio_mutations import mutate_audio
from tests.fuzz.audio_seeds import audio_seeds as seeds
from tests.fuzz.targets.readers import check_message
from whisper_npu.audio import SAMPLE_RATE, stream_audio
from whisper_npu.errors import AudioError

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


def check(data: bytes, folder: Path) -> str:
    """Decode a file, or the bytes of one."""
    name, _, content = data.partition(b"\n")
    path = folder / name.decode()
    path.write_bytes(content)
    source = content if len(content) % 4 == 0 else path
    samples = 0
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for block in stream_audio(source):
                assert block.dtype == np.float32, block.dtype
                assert block.ndim == 1, block.shape
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
            check_message(Exception(str(warning.message)))
    return "warned" if told else "read"
