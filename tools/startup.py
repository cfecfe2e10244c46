"""Time from the start of the command line to the first window decoded, beside openai-whisper's.

    python tools/startup.py --tiktoken whisper/assets/multilingual.tiktoken

Both decode the same seconds with the same seeded random tiny, greedily, in processes that take
turns. A window is decoded when its first segment is printed. openai-whisper reads the samples
with soundfile instead of starting ffmpeg, and its checkpoint in its own format.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

import soundfile

from tests.support import synthetic_audio
from tests.support.checkpoints import Recipe, write_checkpoint

UNWANTED = ("torch", "onnxruntime", "transformers", "whisper", "tensorflow")
GREEDY = ("--language", "en", "--beam_size", "None", "--temperature_increment_on_fallback", "None")
OPENAI = """
import sys, soundfile, whisper.audio
whisper.audio.load_audio = lambda path, sr=16000: soundfile.read(path, dtype="float32")[0]
from whisper.transcribe import cli
cli()
"""
# Runs the command line in this process and then says what it has imported.
IMPORTED = """
import sys
from whisper_npu.cli import main
main(sys.argv[1:])
print(*sorted(sys.modules), file=sys.stderr)
"""


def make_models(model: Path, openai_model: Path, tiktoken: Path) -> None:
    """The same checkpoint in Hugging Face's and in openai-whisper's format."""
    from tests.support.reference.adapter import save_openai

    write_checkpoint(Recipe("tiny", "multilingual", 1, tiktoken), model)
    save_openai(model, openai_model)


def first_segment(command: Sequence[str]) -> tuple[float, float]:
    """Seconds until a command prints its first segment, and its peak memory in MB."""
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
        raise SystemExit(f"no segment from: {' '.join(command[:6])}")
    return elapsed, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the start of both command lines.")
    parser.add_argument("--tiktoken", type=Path, required=True, help="openai-whisper's ranks")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        model, audio = Path(root, "tiny"), Path(root, "audio.wav")
        # By a process of its own: one that has imported torch would pass its peak memory on to
        # the processes it starts.
        maker = get_context("spawn").Process(
            target=make_models, args=(model, Path(root, "tiny.pt"), args.tiktoken)
        )
        maker.start()
        maker.join()
        soundfile.write(audio, synthetic_audio.speech(10, seed=1), synthetic_audio.RATE)
        shared = [str(audio), "--output_dir", root, "--output_format", "txt", *GREEDY]
        ours = ["transcribe", *shared, "--model", str(model)]
        theirs = [*shared, "--model", str(Path(root, "tiny.pt")), "--fp16", "False"]
        commands = {
            "whisper-npu": [sys.executable, "-m", "whisper_npu", *ours],
            "openai-whisper": [sys.executable, "-c", OPENAI, *theirs],
        }
        runs = [
            {name: first_segment(command) for name, command in commands.items()}
            for _ in range(args.runs)
        ]
        for name in commands:
            seconds = [run[name][0] for run in runs]
            memory = max(run[name][1] for run in runs)
            print(
                f"{name:<15} first window after {statistics.median(seconds):.2f} s "
                f"({min(seconds):.2f} to {max(seconds):.2f}, {args.runs} runs), "
                f"peak memory {memory:.0f} MB"
            )
        inside = [sys.executable, "-c", IMPORTED, *ours]
        done = subprocess.run(inside, check=True, capture_output=True, text=True)
    imported = {module.split(".")[0] for module in done.stderr.split()}
    unwanted = [module for module in UNWANTED if module in imported]
    print(f"whisper-npu imported {', '.join(unwanted) or 'none of ' + ', '.join(UNWANTED)}")
    raise SystemExit(bool(unwanted))


if __name__ == "__main__":
    main()
