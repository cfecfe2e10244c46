"""One short recording in two checkouts, by turns: its time and its memory."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from tools.compare_checkouts import (
    FILE_STAGE,
    Side,
    by_turns,
    live_processes,
    peak_in_new_process,
    row,
)
from tools.markdown import markdown_table

# New processes for each checkout, of which the medians of peak memory are taken.
_PROCESSES = 3
Pair = tuple[float, float]


def measure(
    old: Side, new: Side, model: Path, mode: str, audio: Path, pairs: int
) -> tuple[list[Pair], list[Pair]]:
    """Seconds of the transcription, and MiB of processes that do nothing else; old and new."""
    task = {"model": str(model), "mode": mode}
    settings = argparse.Namespace(
        stages=[FILE_STAGE], pairs=pairs, pairs_per_process=3, audio=[audio]
    )
    seconds = live_processes(settings, old, new, task)[FILE_STAGE]
    peaks = [
        by_turns(
            number,
            lambda: peak_in_new_process(old, task, audio),
            lambda: peak_in_new_process(new, task, audio),
        )
        for number in range(min(pairs, _PROCESSES))
    ]
    return seconds, peaks


def lines(name: str, seconds: Sequence[Pair], peaks: Sequence[Pair]) -> Iterator[str]:
    """A table of one row."""
    first, second = (median(side) for side in zip(*peaks, strict=True))
    titles = (
        "recording", "pairs", "old, ms", "new, ms", "new / old", "95 % interval",
        "old, peak MiB", "new, peak MiB", "new / old",
    )  # fmt: skip
    memory = (f"{first:.1f}", f"{second:.1f}", f"{second / first:.3f}")
    yield from markdown_table(titles, [[name, *row(seconds).split(" | "), *memory]])
