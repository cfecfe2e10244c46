"""Damaged, cut, joined and lying audio files: the seconds that we decode next to FFmpeg's.

    python -m tools.damaged_audio --ffmpeg FFMPEG [--containers NAME ...] [--damages 200]

FFMPEG is its program (the Python package imageio-ffmpeg has one). Prints the table of
docs/audio.md, and ends with 1 if a file gives us less than FFmpeg. Silence in the place of what is
damaged counts, as it keeps the times. The files are those of tests/support/damaged_audio.py: the
same versions make the same ones.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
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
FAULTS = ("damage", "cut", "joined", "lying header")
TITLES = ("container", *FAULTS, "least difference", "worse")


@dataclass
class Seconds:
    """Of all files of a container with one kind of fault, in the same order."""

    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    @property
    def least(self) -> float:
        """The difference of the file that gives us the least next to FFmpeg."""
        return min(ours - theirs for ours, theirs in zip(self.ours, self.theirs, strict=True))

    @property
    def worse(self) -> int:
        """Files that give us less."""
        pairs = zip(self.ours, self.theirs, strict=True)
        return sum(ours < theirs - TOLERANCE for ours, theirs in pairs)

    def __str__(self) -> str:
        return f"{len(self.ours)}: {sum(self.ours):.1f} / {sum(self.theirs):.1f}"


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


def measure(ffmpeg: str, name: str, damages: int) -> dict[str, Seconds]:
    """The seconds of a container by the kind of fault; names files that give us less on stderr."""
    found: dict[str, Seconds] = defaultdict(Seconds)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"x.{CONTAINERS[name].extension}")
        for kind, what, content in faults(name, damages):
            path.write_bytes(content)
            ours, theirs = our_seconds(path), ffmpeg_seconds(ffmpeg, path)
            found[kind].ours.append(ours)
            found[kind].theirs.append(theirs)
            if ours < theirs - TOLERANCE:
                print(f"{name}, {kind}, {what}: {ours:.2f}, not {theirs:.2f} s", file=sys.stderr)
    return found


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
    found = {name: measure(args.ffmpeg, name, args.damages) for name in args.containers}
    print(*markdown_table(TITLES, (_cells(*item) for item in found.items())), sep="\n")
    return int(any(seconds.worse for faults in found.values() for seconds in faults.values()))


def _cells(name: str, found: dict[str, Seconds]) -> tuple[str, ...]:
    return (
        name,
        *(str(found[fault]) if fault in found else "" for fault in FAULTS),
        f"{min(seconds.least for seconds in found.values()):+.2f}",
        str(sum(seconds.worse for seconds in found.values())),
    )


if __name__ == "__main__":
    sys.exit(main())
