"""Many recordings, one after the other and at once: time, delay, memory, and what bounds it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from statistics import median

import numpy as np

from tools.engine.material import Material
from tools.engine.sides import (
    AT_ONCE,
    AT_ONCE_BATCHES,
    BESIDE,
    BESIDE_BATCHES,
    DELAYS,
    LOOP,
    LOOP_BATCHES,
    WHOLE,
    Found,
    Task,
)
from tools.markdown import markdown_table
from tools.measuring import by_turns, in_new_process

Runs = Mapping[str, Sequence[Found]]

# What each window needs on its own, whatever is beside it; and what windows do side by side.
ALONE = ("mel", "encoder", "cross_kv")
TOGETHER = ("prefill", "step", "choice")
_CODE = "import sys; from tools.engine.sides import main; main(sys.argv[1])"
_TITLES = {
    LOOP: "one after the other",
    LOOP_BATCHES: "one after the other, batch_size",
    AT_ONCE: "at once",
    AT_ONCE_BATCHES: "at once, batch_size for the long one",
    BESIDE: "beside the long one",
    BESIDE_BATCHES: "beside the long one with batch_size",
}


def measure(task: Task, repeats: int) -> Runs:
    """All sides by turns, each in a new process."""
    actions = {side: partial(_in_new_process, replace(task, side=side)) for side in _TITLES}
    return by_turns(actions, repeats)


def task_of(
    model: str, precision: str, material: Material, batch_size: int, pool: int, threads: int | None
) -> Task:
    """What all sides have in common."""
    short = tuple(map(str, material.short))
    return Task(LOOP, model, precision, short, str(material.long), batch_size, pool, threads)


def _in_new_process(task: Task) -> Found:
    found = Found(**in_new_process(_CODE, json.dumps(asdict(task))))
    told = f"{found.seconds:.1f} s, peak {found.peak_mb:.0f} MiB, others {found.foreign:.1f} s"
    print(f"engine: {_TITLES[task.side]}: {told}", file=sys.stderr, flush=True)
    return found


def report(runs: Runs, audio_seconds: float, batch_size: int) -> Iterator[str]:
    """Lines of text; ratios are medians of those within a round."""
    yield from _whole(runs, audio_seconds)
    yield ""
    yield from _delays(runs)
    yield ""
    yield from _phases(runs)
    yield ""
    yield from _bounds(runs, batch_size)
    yield from _differences(runs)


def _whole(runs: Runs, audio_seconds: float) -> Iterator[str]:
    titles = (
        "", "s", "times one after the other", "audio, s/s", "tokens", "windows in a step",
        "peak memory, MiB",
        "CPU time of others, s",
    )  # fmt: skip
    rows = []
    for side in WHOLE:
        seconds = [found.seconds for found in runs[side]]
        shares = [own.seconds / loop.seconds for own, loop in _rounds(runs, side, LOOP)]
        rows.append(
            [
                _TITLES[side],
                _spread(seconds, ".1f"),
                _spread(shares, ".3f"),
                f"{audio_seconds / median(seconds):.1f}",
                f"{runs[side][0].tokens}",
                f"{runs[side][0].windows:.2f}",
                f"{median(found.peak_mb for found in runs[side]):.0f}",
                f"{median(found.foreign for found in runs[side]):.1f}",
            ]
        )
    yield from markdown_table(titles, rows)


def _delays(runs: Runs) -> Iterator[str]:
    titles = (
        "a short recording, one at a time", "n", "median, s", "90 %, s", "most, s",
        "median, times alone",
        "peak memory, MiB",
    )  # fmt: skip
    rows = []
    for side in (LOOP, *DELAYS):
        delays = [delay for found in runs[side] for delay in found.delays]
        if not delays:
            continue
        shares = [
            median(own.delays) / median(loop.delays)
            for own, loop in _rounds(runs, side, LOOP)
            if own.delays and loop.delays
        ]
        rows.append(
            [
                "alone" if side == LOOP else _TITLES[side],
                f"{len(delays)}",
                f"{median(delays):.3f}",
                f"{np.percentile(delays, 90):.3f}",
                f"{max(delays):.3f}",
                _spread(shares, ".2f"),
                "" if side == LOOP else f"{median(found.peak_mb for found in runs[side]):.0f}",
            ]
        )
    yield from markdown_table(titles, rows)


def _phases(runs: Runs) -> Iterator[str]:
    """Seconds by phase; the rest is what is done between the phases, or waited for."""
    rows = []
    for side in WHOLE:
        found = [_split(each) for each in runs[side]]
        rows.append(
            [_TITLES[side], *(f"{median(f[name] for f in found):.2f}" for name in found[0])]
        )
    names = list(_split(runs[LOOP][0]))
    yield from markdown_table(["s", *names], rows)


def _split(found: Found) -> dict[str, float]:
    parts = {name: found.phases.get(name, 0.0) for name in (*ALONE, *TOGETHER)}
    others = {name: s for name, s in found.phases.items() if name not in parts}
    rest = found.seconds - sum(found.phases.values())
    return {**parts, **others, "rest": rest}


def _bounds(runs: Runs, batch_size: int) -> Iterator[str]:
    """How much less time windows that are decoded side by side could take at most."""
    loops = [_split(found) for found in runs[LOOP]]
    alone = median(sum(loop[name] for name in ALONE) for loop in loops)
    together = median(sum(loop[name] for name in TOGETHER) for loop in loops)
    total = median(found.seconds for found in runs[LOOP])
    rest = total - alone - together
    yield (
        f"Bounds, of one after the other: {' + '.join(ALONE)} {alone:.2f} s are the same for each "
        f"window; {' + '.join(TOGETHER)} {together:.2f} s; all else {rest:.2f} s."
    )
    yield ""
    rows = []
    for what, least in (
        (f"steps of {batch_size} windows as long as of one, all else the same",
         alone + together / batch_size + rest),
        (f"steps of {batch_size} windows as long as of one, all else in no time",
         alone + together / batch_size),
        ("steps in no time, and all else", alone),
    ):  # fmt: skip
        rows.append([what, f"{least:.2f}", f"{least / total:.3f}", f"{total / least:.2f}"])
    titles = ("if nothing else were in the way", "s", "times one after the other", "times as fast")
    yield from markdown_table(titles, rows)
    yield ""
    times = {side: _times(runs, side) for side in (AT_ONCE, AT_ONCE_BATCHES)}
    yield f"Measured, {_TITLES[AT_ONCE_BATCHES]}: {times[AT_ONCE_BATCHES]:.2f} times as fast."
    long = median(found.long for found in runs[LOOP])
    yield (
        f"Of the long one, without batch_size, one window waits for the other, {long:.2f} s of it: "
        f"at most {total / long:.2f} times as fast. Measured, at once: {times[AT_ONCE]:.2f}."
    )


def _times(runs: Runs, side: str) -> float:
    """How many times as fast as one after the other."""
    return median(loop.seconds / own.seconds for own, loop in _rounds(runs, side, LOOP))


def _differences(runs: Runs) -> Iterator[str]:
    """Recordings whose result depends on what was beside them: there should be none."""
    for side, found in runs.items():
        for each in found:
            for path, result in each.results.items():
                # The long one alone has batch_size beside others.
                batches = side != LOOP and "batches" in side and path in _long(runs)
                like = LOOP_BATCHES if batches or side == LOOP_BATCHES else LOOP
                if runs[like][0].results[path] != result:
                    yield f"DIFFERENT: {path}, {_TITLES[side]}, from {_TITLES[like]}"


def _long(runs: Runs) -> set[str]:
    """The long recording, which is transcribed last in a loop."""
    return {list(runs[LOOP][0].results)[-1]}


def _rounds(runs: Runs, side: str, other: str) -> Iterator[tuple[Found, Found]]:
    return zip(runs[side], runs[other], strict=True)


def _spread(values: Sequence[float], form: str) -> str:
    """The median, and the least and the most where there are several."""
    if len(values) < 2:
        return f"{median(values):{form}}" if values else "-"
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"
