"""Markdown tables that can be read as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines of a table; cells of a column are padded to the same width."""
    cells = [titles, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(titles))]
    lines = [" | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in cells]
    yield f"| {lines[0]} |"
    yield "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    for line in lines[1:]:
        yield f"| {line} |"
