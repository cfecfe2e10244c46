"""Five minutes of real speech, as a user transcribes them with each runtime (tools.bench)."""

from __future__ import annotations

from collections.abc import Iterator

from tests.support.real.data import MODELS
from tools.bench.results import Results, Sample
from tools.bench.speech import table
from tools.tables.runtimes import bench

MINUTES, ROUNDS = 5, 5


def lines() -> Iterator[str]:
    for model in MODELS:
        options = ("--model", model, "--speech", str(MINUTES), "--rounds", str(ROUNDS))
        found = bench(*options)
        results = Results(Sample(**sample) for sample in found["samples"])
        versions = "; ".join(sorted({*found["versions"].values()}))
        yield f"{model}, {found['threads']} threads, medians of {ROUNDS} rounds ({versions}):"
        yield ""
        yield from (*table(results), "")
