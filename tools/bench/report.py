"""Results as Markdown tables: medians with spread, and the ratios of ours to the peers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tools.bench.conductor import FIRST_TEXT, PEAK, READY
from tools.bench.registry import BATCH
from tools.bench.results import Results, Summary
from tools.markdown import markdown_table


class Column(NamedTuple):
    """A stage of the table. Values are multiplied by ``scale``, over ``per_token`` by tokens."""

    stage: str
    title: str
    scale: float
    per_token: bool = False


COLUMNS = (
    Column("mel", "mel, ms", 1e3),
    Column("encoder", "encoder, ms", 1e3),
    Column("decode", "decode, ms per token", 1e3, per_token=True),
    Column("beam", "beam 5, ms", 1e3),
    Column("window", "window, ms", 1e3),
    Column("batch", f"{BATCH} windows, ms", 1e3),
    Column("file", "10 minutes, s", 1),
    Column(READY, "import and load, s", 1),
    Column(FIRST_TEXT, "start to first text, s", 1),
    Column(PEAK, "peak memory, MiB", 1),
)


def tables(
    results: Results, ours: Sequence[str], peers: Sequence[str], n_tokens: int
) -> Iterator[str]:
    """Lines of text: the medians, then for each of ours a table of its ratios to the peers."""
    names = (*peers, *ours)
    columns = [c for c in COLUMNS if any(results.summary(name, c.stage) for name in names)]
    yield from markdown_table(
        ["runtime", *(column.title for column in columns)],
        [
            [name, *(cell(results.summary(name, c.stage), c, n_tokens) for c in columns)]
            for name in names
        ],
    )
    for own in ours if peers else ():
        yield ""
        yield from markdown_table(
            [f"{own}, over", *(column.title.partition(",")[0] for column in columns)],
            [
                [peer, *(ratio(results.ratio(own, peer, c.stage)) for c in columns)]
                for peer in peers
            ],
        )


def cell(summary: Summary | None, column: Column, n_tokens: int = 1) -> str:
    """A median with its spread, and ``!`` where every round was disturbed."""
    if summary is None:
        return "-"
    scale = column.scale / n_tokens if column.per_token else column.scale
    mark = " !" if summary.n_disturbed and summary.n == summary.n_disturbed else ""
    spread = f" ±{_number(summary.spread * scale)}" if summary.n > 1 else ""
    return f"{_number(summary.median * scale)}{spread}{mark}"


def _number(value: float) -> str:
    """Three digits that count, and all before the point."""
    digits = max(0, 2 - len(str(int(value))) + 1) if value >= 1 else 2
    return f"{value:,.{digits}f}"


def ratio(value: float | None) -> str:
    """Two digits after the point."""
    return "-" if value is None else f"{value:.2f}"
