"""Time from the start of the command line to the first window decoded, beside openai-whisper's.

Both decode a President's eleven seconds with the same weights in float32, greedily, in processes
that take turns. A window is decoded when its first segment is printed. openai-whisper reads the
samples with soundfile instead of starting ffmpeg, and its checkpoint in its own format.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec

from tests.support.real import data
from tests.support.real.speech import president
from tools.markdown import markdown_table
from tools.measuring import by_turns, in_new_process

RUNS = 5
GREEDY = ("--language", "en", "--beam_size", "None", "--temperature_increment_on_fallback", "None")
OPENAI = """
import sys, soundfile, whisper.audio
whisper.audio.load_audio = lambda path, sr=16000: soundfile.read(path, dtype="float32")[0]
from whisper.transcribe import cli
cli()
"""

MEASURE = """
import json, sys
from tools.tables.start import measure
print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
"""


def first_segment(command: Sequence[str]) -> tuple[float, float]:
    """Seconds until a command prints its first segment, and its peak memory in MiB. Raises
    CalledProcessError if it prints none."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    assert process.stdout is not None
    elapsed = float("nan")
    with process.stdout as lines:
        for line in lines:
            if line.startswith("["):
                elapsed = time.perf_counter() - start
                break
        for _ in lines:
            pass
    # wait4 rather than wait: it knows the memory of this one process.
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0 or elapsed != elapsed:
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), command)
    return elapsed, usage.ru_maxrss / 1024


def measure(name: str, runs: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds and MiB of each run, by command line."""
    model, openai_model = data.converted(name, "float16"), data.openai_pt(name)
    (audio,) = president().files
    with tempfile.TemporaryDirectory() as root:
        shared = [str(audio), "--output_dir", root, "--output_format", "txt", *GREEDY]
        ours = ["-m", "whisper_npu", "transcribe", *shared, "--model", str(model)]
        ours += ["--precision", "float32"]
        theirs = ["-c", OPENAI, *shared, "--model", str(openai_model), "--fp16", "False"]
        commands = {"whisper-npu": ours, "openai-whisper": theirs}
        return by_turns(
            {
                name: partial(first_segment, [sys.executable, *command])
                for name, command in commands.items()
            },
            runs,
        )


def lines() -> Iterator[str]:
    if find_spec("whisper") is None:
        raise ModuleNotFoundError("No module named 'whisper'", name="whisper")
    rows = []
    for name in data.MODELS:
        # A process of this one would have at least this one's memory as its peak, for a start.
        for command, runs in in_new_process(MEASURE, name, RUNS).items():
            seconds, memory = zip(*runs, strict=True)
            median = f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
            rows.append([name, command, median, f"{max(memory):.0f}"])
    yield f"11 s of audio, float32, {RUNS} runs of each by turns."
    yield ""
    titles = ("start to the first window decoded, s", "peak memory, MiB")
    yield from markdown_table(["model", "command line", *titles], rows)
