"""Peak memory of transcribing a long recording, beside that of a minute.

Each recording is transcribed by a process of its own with the same seeded random model. Few
tokens are decoded for each window, without timestamps, so that hours of audio take minutes: memory
grows with the audio or does not, whatever is decoded from it. Needs Linux.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support.checkpoints import Recipe, write_checkpoint
from tests.support.synthetic_audio import write_recording
from tools.markdown import markdown_table
from tools.measuring import in_new_process

SIZE, MINUTES = "tiny", (1, 180)
TOKENS = 8

TRANSCRIBE = """
import json, sys, time
from tools.bench.machine import peak_memory_mb
from whisper_npu import Transcriber
model, audio, tokens = sys.argv[1:]
began = time.perf_counter()
stream = Transcriber(model).segments(
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


def measure(size: str, minutes: Sequence[float]) -> Iterator[Run]:
    """Transcribe recordings of so many minutes."""
    with tempfile.TemporaryDirectory() as root:
        model, audio = Path(root, "model"), Path(root, "audio.wav")
        write_checkpoint(Recipe(size), model)
        for length in minutes:
            write_recording(audio, length)
            yield Run(length, *in_new_process(TRANSCRIBE, model, audio, TOKENS))


def lines() -> Iterator[str]:
    rows = [
        [f"{run.minutes:g}", f"{run.segments:,}", f"{run.seconds:.0f}", f"{run.peak_mib:.0f}"]
        for run in measure(SIZE, MINUTES)
    ]
    yield f"{SIZE}, {TOKENS} tokens a window."
    yield ""
    yield from markdown_table(["minutes", "segments", "seconds", "peak memory, MiB"], rows)
