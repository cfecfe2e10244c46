"""What was found, as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.support.real.word_errors import (
    Difference,
    Errors,
    error_rate,
    paired_bootstrap,
    word_errors,
    words_changed,
)
from tools.accuracy.runner import Found, Words
from tools.accuracy.systems import FLOAT32_PEERS, REFERENCE
from tools.markdown import markdown_table


def tables(found: Found) -> Iterator[str]:
    """Lines: what was transcribed, a row for each system, and the floor of noise."""
    words = found.words
    if not words:
        return
    yield f"{heading(found)}:"
    yield ""
    names = list(words[0].found)
    base = errors(words, REFERENCE.name)
    rows = []
    for name in names:
        own = errors(words, name)
        row = [name, f"{100 * error_rate(own):.2f} %"]
        if name == REFERENCE.name:
            rows.append([*row, "-", "-", "-", "-"])
            continue
        row += [interval(paired_bootstrap(base, own))]
        row += [f"{100 * changed(words, REFERENCE.name, name):.2f} %"]
        if counts := found.forced.get(name):
            row += [f"{100 * counts['same'] / counts['rows']:.2f} %"]
            row += [f"{counts['divergence'] / counts['rows']:.1e}"]
        else:
            row += ["-", "-"]
        rows.append(row)
    titles = (
        "word errors",
        "to our float32, points",
        "words changed",
        "same likeliest token",
        "divergence, nats a token",
    )
    # A corpus whose tokens are not compared has no such columns.
    width = len(titles) + 1 if found.forced else len(titles) - 1
    yield from markdown_table(["", *titles][:width], [row[:width] for row in rows])
    first, second = (peer.name for peer in FLOAT32_PEERS)
    if {first, second} <= set(names):
        yield ""
        share = 100 * changed(words, first, second)
        yield f"Between {first} and {second}: {share:.2f} % of the words."


def heading(found: Found) -> str:
    """How much speech it is."""
    recordings = [each.recording for each in found.words]
    files = sum(len(recording.files) for recording in recordings)
    languages = sorted({recording.language for recording in recordings})
    minutes = sum(recording.seconds for recording in recordings) / 60
    total = sum(len(each.reference) for each in found.words)
    forced = min(found.corpus.forced, len(recordings))
    tokens = max((int(counts["rows"]) for counts in found.forced.values()), default=0)
    return (
        f"{found.corpus.name} ({', '.join(languages)}): {files:,} recordings in "
        f"{len(recordings):,} of at most a window, {minutes:.0f} minutes, {total:,} words"
        + (f"; of the first {forced} of these {tokens:,} tokens" if tokens else "")
    )


def errors(words: Sequence[Words], name: str) -> list[Errors]:
    """Those of a system, by recording."""
    return [word_errors(each.reference, each.found[name]) for each in words]


def changed(words: Sequence[Words], before: str, after: str) -> float:
    """The share of the words of one system that are others in another's text."""
    pairs = [(each.found[before], each.found[after]) for each in words]
    return sum(words_changed(a, b) for a, b in pairs) / sum(len(a) for a, _ in pairs)


def interval(difference: Difference) -> str:
    """In points: "+0.34 [-0.06, +0.77]"."""
    value, low, high = (f"{100 * bound + 0.0:+.2f}" for bound in difference)
    return f"{value} [{low}, {high}]"
