"""What a recording costs against its length: tiny.en, int8 on the kernels (tools.bench)."""

from __future__ import annotations

from collections.abc import Iterator

from tools.markdown import markdown_table
from tools.tables.runtimes import bench

MODEL = "tiny.en"
MINUTES = (1, 10, 60, 180)
RUNTIME = "ours int8, kernels"


def lines() -> Iterator[str]:
    minutes = ",".join(map(str, MINUTES))
    found = bench("--model", MODEL, "--lengths", minutes, "--runtimes", RUNTIME)["lengths"]
    rows = []
    for length in MINUTES:
        runs = sorted((run for run in found if run["minutes"] == length), key=_batch_size)
        cells = [
            f"{run['seconds']:.1f}, {run['seconds'] / length:.2f}, {run['peak_mb']:.0f}"
            + (" !" if run["disturbed"] else "")
            for run in runs
        ]
        rows.append([str(length), *cells])
    titles = ("one window at a time: s, s a minute, peak MiB", "eight at a time")
    yield from markdown_table(["minutes", *titles], rows)


def _batch_size(run: dict[str, int]) -> int:
    return run["batch_size"]
