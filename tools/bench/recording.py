"""A recording of any length.

python -m bench_runtimes.recording FILE MINUTES
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import soundfile

from tests.support import synthetic_audio


def write_recording(path: Path, minutes: float) -> None:
    """A wav file of speech, a block at a time; ten minutes of it over and over."""
    block = np.concatenate([synthetic_audio.recorded_speech(30, seed) for seed in range(20)])
    with soundfile.SoundFile(path, "w", synthetic_audio.RATE, 1, "PCM_16") as file:
        left = round(minutes * 60 * synthetic_audio.RATE)
        while left > 0:
            file.write(block[:left])
            left -= block.size


def main() -> None:
    path, minutes = sys.argv[1:]
    write_recording(Path(path), float(minutes))


if __name__ == "__main__":
    main()
