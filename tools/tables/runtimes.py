"""Every runtime side by side: the benchmark for each size, and its goals. Takes hours."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.bench.criteria import CRITERIA, largest_ratio
from tools.bench.registry import OURS, PEERS, capped
from tools.bench.report import COLUMNS, tables
from tools.bench.results import Results, Sample
from tools.markdown import markdown_table
from tools.measuring import REPOSITORY

ROUNDS = {"tiny": 3, "base": 2, "small": 2}
NAMES_OF_PEERS = [spec.name for spec in PEERS]
ISA = "avx2"  # ours with no more than that as well
NAMES_OF_OURS = [spec.name for spec in (*OURS, *capped([ISA]))]
TITLES = {column.stage: column.title.partition(",")[0] for column in COLUMNS}


def bench(*options: str) -> dict[str, Any]:
    """What ``python -m tools.bench`` writes. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "results.json")
        command = [sys.executable, "-m", "tools.bench", *options, "--json", str(path)]
        # Its own tables go to stderr, as its progress does.
        subprocess.run(command, check=True, cwd=REPOSITORY, stdout=sys.stderr)
        found: dict[str, Any] = json.loads(path.read_text())
        return found


def goals(results: dict[str, Results]) -> Iterator[str]:
    """The ratios to the fastest peer that each goal names, bold where it is missed."""
    for own in NAMES_OF_OURS:
        rows = []
        for criterion in next(found for kind, found in CRITERIA.items() if kind in own):
            cells = []
            for found in results.values():
                ratio, peer = largest_ratio(found, own, criterion, NAMES_OF_PEERS) or (0.0, "-")
                bold = "**" if ratio > criterion.limit else ""
                cells.append(f"{bold}{ratio:.2f}{bold} ({peer})" if ratio else peer)
            rows.append([TITLES[criterion.stage], f"{criterion.limit:g}", *cells])
        yield from ("", f"`{own}`, to the fastest peer:", "")
        yield from markdown_table(["stage", "goal", *results], rows)


def lines() -> Iterator[str]:
    results = {}
    for size, rounds in ROUNDS.items():
        found = bench("--size", size, "--rounds", str(rounds), "--isa", ISA)
        # Ten minutes take long: once, and of those that have batches.
        batched = ("--runtimes", "ours*", "faster-whisper*")
        long = bench("--size", size, "--rounds", "1", "--stages", "file", *batched)
        samples = (*found["samples"], *long["samples"])
        results[size] = Results(Sample(**sample) for sample in samples)
        versions = "; ".join(sorted({*found["versions"].values()}))
        yield from (f"{size}, medians of {rounds} rounds ({versions}):", "")
        medians = tables(results[size], [], [*NAMES_OF_PEERS, *NAMES_OF_OURS], found["tokens"])
        yield from (*medians, "")
    yield "Ratios to the fastest peer that the goal names (less is faster); bold: it is missed."
    yield from goals(results)
