"""Peak memory of transcribing a long recording, beside that of a minute.

    python tools/long_file.py --hours 3

Each recording is transcribed by a process of its own with the same seeded random model. Few
tokens are decoded for each window, without timestamps, so that hours of audio take minutes: memory
grows with the audio or does not, whatever is decoded from it. Needs Linux.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from tests.support import synthetic_audio
from tests.support.checkpoints import SIZES, Recipe, write_checkpoint

ALLOWED = 150  # MB more for hours than for a minute

TRANSCRIBE = """
import sys
from whisper_npu import Transcriber
stream = Transcriber(sys.argv[1]).segments(
    sys.argv[2], language="en", temperature=0.0, sample_len=8, without_timestamps=True,
    no_speech_threshold=None,
)
segments = sum(1 for _ in stream)
# From the kernel: what getrusage says includes the process that this one was started by.
with open("/proc/self/status") as file:
    peak = next(line.split()[1] for line in file if line.startswith("VmHWM"))
print(segments, int(peak) / 1024)
"""


def write_recording(path: Path, seconds: float) -> None:
    """A wav file of speech, a block at a time; ten minutes of it over and over."""
    block = np.concatenate([synthetic_audio.speech(30, seed) for seed in range(20)])
    with soundfile.SoundFile(path, "w", synthetic_audio.RATE, 1, "PCM_16") as file:
        left = round(seconds * synthetic_audio.RATE)
        while left > 0:
            file.write(block[:left])
            left -= block.size


def measure(model: Path, audio: Path) -> tuple[int, float, float]:
    """Segments, seconds and peak memory in MB of transcribing a file."""
    start = time.perf_counter()
    command = [sys.executable, "-c", TRANSCRIBE, str(model), str(audio)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    segments, peak = done.stdout.split()
    return int(segments), time.perf_counter() - start, float(peak)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the memory that a long file takes.")
    parser.add_argument("--hours", type=float, default=3)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    args = parser.parse_args()
    peaks = []
    with tempfile.TemporaryDirectory() as root:
        model, audio = Path(root, "model"), Path(root, "audio.wav")
        write_checkpoint(Recipe(args.size), model)
        for seconds in (60, args.hours * 3600):
            write_recording(audio, seconds)
            segments, elapsed, peak = measure(model, audio)
            print(f"{seconds:>8.0f} s: {segments} segments in {elapsed:.0f} s, peak {peak:.0f} MB")
            peaks.append(peak)
    print(f"difference {peaks[1] - peaks[0]:.0f} MB, allowed {ALLOWED} MB")
    raise SystemExit(peaks[1] - peaks[0] > ALLOWED)


if __name__ == "__main__":
    main()
