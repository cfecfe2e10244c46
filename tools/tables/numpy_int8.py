"""What integers cost on NumPy: the stages of a window in int8 beside float32, without kernels.

One process, both by turns, a President's eleven seconds: the encoder, the cross keys and values, a
prompt of four tokens, and a step in the middle of the context (one sequence, and five beams).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from tests.support.real import data
from tools.markdown import markdown_table
from tools.measuring import by_turns, seconds
from tools.tables.peers.real_inputs import inputs, real_model
from whisper_npu.model.precision import PRECISIONS
from whisper_npu.ops.arrays import F32
from whisper_npu.runtime.model import Model
from whisper_npu.runtime.session import DecoderSession
from whisper_npu.runtime.threads import default_threads

ROUNDS, STEPS, BEAMS = 5, 10, 5
_POSITION = 200


def step(session: DecoderSession) -> None:
    """A token for every sequence, in the middle of the context."""
    session.positions[:] = _POSITION
    session.step(np.arange(session.group) + 7)


def stages(model: Model, features: F32) -> Iterator[tuple[str, Callable[[], object], int]]:
    """Each stage of a window, and how often it runs in a round."""
    states = model.encode(features)
    yield "encoder", partial(model.encode, features), 1
    # A copy: states that are known are not computed again.
    yield "cross keys and values", lambda: model.decoder(states.copy()), 1
    for what, group in (("step", 1), (f"{BEAMS} beams", BEAMS)):
        session = model.decoder(states, group)
        prompt = partial(session.prefill, [[1, 2, 3, 4]], [3])
        prompt()
        # This makes the plan.
        step(session)
        if group == 1:
            yield "prompt", prompt, 1
        yield what, partial(step, session), STEPS


def measure(model: Model, features: F32) -> dict[str, float]:
    """Seconds of each stage, means of a round."""
    return {
        what: statistics.fmean(seconds(action) for _ in range(count))
        for what, action, count in stages(model, features)
    }


def row(
    name: str, rounds: Sequence[Mapping[str, float]], base: Sequence[Mapping[str, float]]
) -> list[str]:
    """Medians in milliseconds, each with the median of its ratios to the same round of ``base``."""
    cells = [name]
    for what in rounds[0]:
        median = 1e3 * statistics.median(each[what] for each in rounds)
        ratios = [a[what] / b[what] for a, b in zip(rounds, base, strict=True)]
        cells.append(f"{median:.3g} ({statistics.median(ratios):.2f})")
    return cells


def lines() -> Iterator[str]:
    rows = []
    titles: list[str] = []
    for name in data.MODELS:
        features = inputs(name).features[None]
        models = {precision: real_model(name, "float16", precision) for precision in PRECISIONS}
        actions = {p: partial(measure, model, features) for p, model in models.items()}
        for action in actions.values():
            titles = list(action())
        found = by_turns(actions, ROUNDS)
        rows += [row(f"{name}, {p}", found[p], found["float32"]) for p in PRECISIONS]
    yield f"{default_threads()} threads; ms (ratio to float32), medians of {ROUNDS} rounds."
    yield ""
    yield from markdown_table(["", *titles], rows)
