"""Every runtime side by side, stage by stage: the benchmark for each model. Takes hours."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.real.data import MODELS
from tools.bench.registry import OURS, PEERS, capped
from tools.bench.report import tables
from tools.bench.results import Results, Sample
from tools.measuring import REPOSITORY

ROUNDS = 3
NAMES_OF_PEERS = [spec.name for spec in PEERS]
ISA = "avx2"  # ours with no more than that as well
NAMES_OF_OURS = [spec.name for spec in (*OURS, *capped([ISA]))]


def bench(*options: str) -> dict[str, Any]:
    """What ``python -m tools.bench`` writes. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "results.json")
        command = [sys.executable, "-m", "tools.bench", *options, "--json", str(path)]
        # Its own tables go to stderr, as its progress does.
        subprocess.run(command, check=True, cwd=REPOSITORY, stdout=sys.stderr)
        found: dict[str, Any] = json.loads(path.read_text())
        return found


def lines() -> Iterator[str]:
    for model in MODELS:
        found = bench("--model", model, "--rounds", str(ROUNDS), "--isa", ISA)
        # Ten minutes take long: once, and of those that have batches.
        batched = ("--runtimes", "ours*", "faster-whisper*")
        long = bench("--model", model, "--rounds", "1", "--stages", "file", *batched)
        results = Results(Sample(**sample) for sample in (*found["samples"], *long["samples"]))
        versions = "; ".join(sorted({*found["versions"].values()}))
        yield from (f"{model}, medians of {ROUNDS} rounds ({versions}):", "")
        yield from (*tables(results, [], [*NAMES_OF_PEERS, *NAMES_OF_OURS], found["tokens"]), "")
