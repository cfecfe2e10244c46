"""Time from the start of the command line to the first window decoded, beside openai-whisper's.

Both decode the same seconds with the same seeded random model, greedily, in processes that take
turns. A window is decoded when its first segment is printed. openai-whisper reads the samples
with soundfile instead of starting ffmpeg, and its checkpoint in its own format.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import soundfile

from tests.support import synthetic_audio
from tests.support.checkpoints import Recipe, write_checkpoint
from tools.markdown import markdown_table
from tools.measuring import by_turns, in_new_process

SIZES, RUNS = ("tiny", "base"), 5
GREEDY = ("--language", "en", "--beam_size", "None", "--temperature_increment_on_fallback", "None")
OPENAI = """
import sys, soundfile, whisper.audio
whisper.audio.load_audio = lambda path, sr=16000: soundfile.read(path, dtype="float32")[0]
from whisper.transcribe import cli
cli()
"""

MEASURE = """
import json, sys
from tests.support.checkpoints import Recipe
from tools.tables.start import measure
if __name__ == "__main__":
    print(json.dumps(measure(Recipe(sys.argv[1], "multilingual", 1), int(sys.argv[2]))))
"""


def make_models(recipe: Recipe, model: Path, openai_model: Path) -> None:
    """The same checkpoint in Hugging Face's and in openai-whisper's format."""
    import whisper

    from tests.support.reference.adapter import save_openai

    ranks = Path(whisper.__file__).with_name("assets") / "multilingual.tiktoken"
    write_checkpoint(replace(recipe, tiktoken=ranks), model)
    save_openai(model, openai_model)


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


def measure(recipe: Recipe, runs: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds and MiB of each run, by command line."""
    with tempfile.TemporaryDirectory() as root:
        model, openai_model, audio = (Path(root, name) for name in ("model", "m.pt", "audio.wav"))
        # By a process of its own: one that has imported torch would pass its peak memory on to
        # the processes it starts.
        maker = get_context("spawn").Process(target=make_models, args=(recipe, model, openai_model))
        maker.start()
        maker.join()
        soundfile.write(audio, synthetic_audio.speech(10, seed=1), synthetic_audio.RATE)
        shared = [str(audio), "--output_dir", root, "--output_format", "txt", *GREEDY]
        ours = ["-m", "whisper_npu", "transcribe", *shared, "--model", str(model)]
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
    for size in SIZES:
        # A process of this one would have at least this one's memory as its peak, for a start.
        for name, runs in in_new_process(MEASURE, size, RUNS).items():
            seconds, memory = zip(*runs, strict=True)
            median = f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
            rows.append([size, name, median, f"{max(memory):.0f}"])
    yield f"10 s of audio, float32, {RUNS} runs of each by turns."
    yield ""
    titles = ("start to the first window decoded, s", "peak memory, MiB")
    yield from markdown_table(["model", "command line", *titles], rows)
