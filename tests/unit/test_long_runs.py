"""Memory that must not grow: with the length of a recording, and with the size of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.checkpoints import Recipe, write_checkpoint
from tests.support.synthetic_audio import write_recording
from tools.measuring import in_new_process
from tools.tables import conversion

pytestmark = pytest.mark.long

HOURS, MORE_MIB = 3, 150  # for hours of audio than for a minute
# Few for each window, so that hours of audio take minutes.
TOKENS = 8

TRANSCRIBE = """
import json, sys, time
from tools.bench.machine import peak_memory_mb
from whisper_npu import Transcriber
model, audio, tokens = sys.argv[1:]
began = time.perf_counter()
stream = Transcriber(model, precision="float32").segments(
    audio, language="en", temperature=0.0, sample_len=int(tokens), without_timestamps=True,
    no_speech_threshold=None,
)
segments = sum(1 for _ in stream)
print(json.dumps([segments, time.perf_counter() - began, peak_memory_mb()]))
"""


class Run(NamedTuple):
    """What a recording took."""

    minutes: float
    segments: int
    seconds: float
    peak_mib: float


def measure(model: Path, audio: Path, minutes: Sequence[float]) -> Iterator[Run]:
    """Transcribe recordings of so many minutes, each by a process of its own."""
    for length in minutes:
        write_recording(audio, length)
        yield Run(length, *in_new_process(TRANSCRIBE, model, audio, TOKENS))


def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    write_checkpoint(Recipe("tiny"), tmp_path / "model")
    lengths = (1, 60 * HOURS)
    minute, hours = measure(tmp_path / "model", tmp_path / "audio.wav", lengths)
    assert hours.segments > 100 * minute.segments
    assert hours.peak_mib - minute.peak_mib < MORE_MIB


@pytest.mark.parametrize("stored", ["float16", "float32"])
def test_memory_of_converting_does_not_grow_with_the_model(stored: str) -> None:
    """Less than the largest tensor of the model as it is stored."""
    run = conversion.measure_random("large-v3", stored)
    assert run.result > 1.5e9
    assert run.ratio < 1
