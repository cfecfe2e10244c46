"""Damaged, cut, joined and lying audio files: the seconds that we decode next to FFmpeg's.

    python -m tools.damaged_audio --ffmpeg FFMPEG [--containers NAME ...] [--damages 200]

FFMPEG is its program (the Python package imageio-ffmpeg has one). Prints a table with a row for
each container and kind of fault, and ends with 1 if a file gives us less than FFmpeg. Silence in
the place of what is damaged counts, as it keeps the times. The files are those of
tests/support/damaged_audio.py: the same versions make the same ones.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av

from tests.support.damaged_audio import CONTAINERS, damaged, encoded, joined, lying, truncated
from tools.markdown import markdown_table
from whisper_npu.audio import stream_audio
from whisper_npu.errors import AudioError

# openai-whisper's, which are FFmpeg's defaults but for the output.
FLAGS = "-nostdin -threads 0 -i FILE -f s16le -ac 1 -acodec pcm_s16le -ar 16000 -"
RATE = 16000
# Frames of codecs last up to 64 ms, and one more or less at an end is a matter of taste.
TOLERANCE = 0.1
TITLES = ("container", "fault", "files", "ours, s", "FFmpeg, s", "least difference, s", "worse")


@dataclass(frozen=True)
class Row:
    """Seconds of all files of a container with a kind of fault; ``worse`` names files."""

    container: str
    fault: str
    ours: list[float]
    theirs: list[float]
    worse: list[str]


def faults(name: str, damages: int) -> Iterator[tuple[str, str, bytes]]:
    """The kind of each fault, its name, and the file."""
    data = encoded(name)
    for seed in range(damages):
        yield "damage", f"seed {seed}", damaged(data, name, seed)
    for n in range(20):
        yield "cut", f"{n + 1}/21", truncated(data, n, 20)
    for n, content in enumerate(joined(name)):
        yield "joined", f"{n}", content
    for what, content in lying(name):
        yield "lying header", what, content


def measure(ffmpeg: str, name: str, damages: int) -> Iterator[Row]:
    """The rows of a container."""
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"x.{CONTAINERS[name].extension}")
        for kind, what, content in faults(name, damages):
            row = rows.setdefault(kind, Row(name, kind, [], [], []))
            path.write_bytes(content)
            row.ours.append(our_seconds(path))
            row.theirs.append(ffmpeg_seconds(ffmpeg, path))
            if row.ours[-1] < row.theirs[-1] - TOLERANCE:
                row.worse.append(f"{what}: {row.ours[-1]:.2f} s, not {row.theirs[-1]:.2f} s")
    yield from rows.values()


def our_seconds(path: Path) -> float:
    """Seconds that we decode; 0 for an error that says what is wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return sum(len(block) for block in stream_audio(path)) / RATE
        except AudioError:
            return 0.0


def ffmpeg_seconds(ffmpeg: str, path: Path) -> float:
    """Seconds that FFmpeg's program decodes before its end, whatever its exit status."""
    flags = [str(path) if flag == "FILE" else flag for flag in FLAGS.split()]
    done = subprocess.run([ffmpeg, "-v", "quiet", *flags], capture_output=True, check=False)
    return len(done.stdout) / 2 / RATE


def main() -> int:
    """Print the table; 1 if a file gives us less than FFmpeg."""
    parser = argparse.ArgumentParser(prog="tools.damaged_audio", description=__doc__)
    parser.add_argument("--ffmpeg", required=True)
    parser.add_argument("--containers", nargs="+", default=list(CONTAINERS), choices=CONTAINERS)
    parser.add_argument("--damages", type=int, default=200)
    args = parser.parse_args()
    version = subprocess.run(
        [args.ffmpeg, "-version"], capture_output=True, text=True, check=True
    ).stdout.split()[2]
    print(f"FFmpeg {version}: `ffmpeg {FLAGS}`; ours: FFmpeg {av.ffmpeg_version_info} in PyAV\n")
    rows = []
    for name in args.containers:
        for row in measure(args.ffmpeg, name, args.damages):
            rows.append(row)
            for each in row.worse:
                print(f"{row.container}, {row.fault}: {each}", file=sys.stderr)
    print(*markdown_table(TITLES, map(_cells, rows)), sep="\n")
    return int(any(row.worse for row in rows))


def _cells(row: Row) -> tuple[str, ...]:
    least = min(ours - theirs for ours, theirs in zip(row.ours, row.theirs, strict=True))
    return (
        row.container,
        row.fault,
        str(len(row.ours)),
        f"{sum(row.ours):.1f}",
        f"{sum(row.theirs):.1f}",
        f"{least:+.2f}",
        str(len(row.worse)),
    )


if __name__ == "__main__":
    sys.exit(main())
