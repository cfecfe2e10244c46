"""Runtimes side by side, stage by stage: the benchmark for each model. Takes an hour."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.real.data import MODELS
from tools.bench.registry import OURS, PEERS, capped, select
from tools.bench.report import tables
from tools.bench.results import Results, Sample
from tools.measuring import REPOSITORY

ROUNDS = 3
ISA = "avx2"  # ours with no more than that as well
PATTERNS = (
    "openai-whisper float32",
    "faster-whisper*",
    "whisper.cpp q8_0",
    "ours float32, NumPy",
    "ours int8, kernels*",
)
# What has batches.
BATCHED = ("faster-whisper*", "ours float32, NumPy", "ours int8, kernels")
NAMES = [spec.name for spec in select((*PEERS, *OURS, *capped([ISA])), PATTERNS)]


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
        options = ("--model", model, "--isa", ISA)
        found = bench(*options, "--rounds", str(ROUNDS), "--runtimes", *PATTERNS)
        # Ten minutes take long: once.
        long = bench(*options, "--rounds", "1", "--stages", "file", "--runtimes", *BATCHED)
        results = Results(Sample(**sample) for sample in (*found["samples"], *long["samples"]))
        versions = "; ".join(sorted({*found["versions"].values()}))
        yield from (f"{model}, medians of {ROUNDS} rounds ({versions}):", "")
        yield from (*tables(results, [], NAMES, found["tokens"]), "")
