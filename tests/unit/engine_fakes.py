"""A model that writes down what an engine runs, and what tests of the engine ask it for."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from tests.support.waiting import LIMIT
from tests.unit.decoding_fakes import (
    FakeCounts,
    FakeModel,
    FakeSession,
    Script,
    small_tokenizer,
)
from tests.unit.random_decoding import seeded
from whisper_npu.decoding import task
from whisper_npu.decoding.engine import Engine, Recording, Window, Work
from whisper_npu.decoding.options import DecodingOptions, DecodingResult
from whisper_npu.decoding.task import Decoding

TOKENIZER = small_tokenizer()
GREEDY = DecodingOptions(language="en", without_timestamps=True)


class Counts(FakeCounts):
    """Counts steps too, each of which takes a second."""

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.seconds = 0, 0.0

    def add(self, other: Any, share: float = 1.0) -> None:
        super().add(other, share)
        self.steps += other.steps
        self.seconds += other.seconds * share


class Session(FakeSession):
    model: Model

    def prefill(self, tokens: np.ndarray, rows: Sequence[int]) -> np.ndarray:
        with self.model.running():
            self.model.before_prefill(self)
            return super().prefill(tokens, rows)

    def step(self, tokens: np.ndarray) -> np.ndarray:
        with self.model.running():
            self.model.steps.append(list(self.windows))
            self.model.counts.steps += 1
            self.model.counts.seconds += 1
            self.model.before_step(self)
            return super().step(tokens)


class Model(FakeModel):
    """Writes down what it runs: the windows of each step, and those that are encoded."""

    counts: Counts

    def __init__(self, script: Script, **dims: int) -> None:
        super().__init__(script, **{"n_audio_ctx": 2, **dims})
        self.counts = Counts()
        self.steps: list[list[int]] = []
        self.encoded: list[int] = []
        # The process: it may be forked meanwhile.
        self.runs = 0
        self.before_step: Callable[[FakeSession], object] = lambda session: None
        self.before_prefill: Callable[[FakeSession], object] = lambda session: None
        self.before_encode: Callable[[int], object] = lambda window: None

    def new_counts(self) -> Counts:
        return Counts()

    @contextmanager
    def running(self) -> Iterator[None]:
        # By one thread at a time.
        assert self.runs != os.getpid()
        self.runs = os.getpid()
        try:
            yield
        finally:
            self.runs = 0

    def encode(self, features: np.ndarray) -> np.ndarray:
        with self.running():
            window = round(float(features[0, 0, 0]))
            self.before_encode(window)
            self.encoded.append(window)
            return super().encode(features)

    def decoder(self, states: Sequence[np.ndarray], group: int = 1) -> FakeSession:
        return Session(self, [round(float(window[0])) for window in states], group)


def babble(window: int, context: tuple[int, ...]) -> Mapping[int, float]:
    """Some likely tokens, which depend on all that was before, and more and more often an end."""
    chance = seeded(window, context)
    tokens = {300 + chance.randrange(90): chance.gauss(0, 2) for _ in range(8)}
    tokens[TOKENIZER.timestamp_begin + len(context)] = chance.gauss(0, 2)
    tokens[TOKENIZER.eot] = len(context) / 4 - 4 + chance.gauss(0, 2)
    return {token: value + 8 for token, value in tokens.items()}


def ask(recording: Recording, number: int, options: DecodingOptions = GREEDY) -> Work[Decoding]:
    """Have a window decoded, which is known by its number."""
    window = window_of(recording, number)
    return window.decode(partial(decoding, recording.model, number, options))


def window_of(recording: Recording, number: int) -> Window:
    return recording.window(np.full((2, recording.model.dims.n_frames), number, np.float32))


def decoding(model: Any, number: int, options: DecodingOptions) -> Decoding:
    return Decoding(TOKENIZER, model.dims, options, options.prompt, number, model.probabilities)


def alone(
    script: Script, number: int, options: DecodingOptions = GREEDY, **dims: int
) -> DecodingResult:
    """What comes of a window on its own."""
    model = Model(script, **dims)
    states = [np.full(1, number, np.float32)]
    (result,) = task.decode(model, TOKENIZER, states, options, seeks=[number])
    return result


def result_of(work: Work[Decoding]) -> DecodingResult:
    return work.result(LIMIT).result()


def has_ended(engine: Engine) -> bool:
    return engine._thread is None


@contextmanager
def held(engine: Engine) -> Iterator[None]:
    """The engine waits meanwhile; what is asked for comes all at once."""
    there, go_on = threading.Event(), threading.Event()
    recording = engine.open()

    def wait() -> None:
        there.set()
        go_on.wait(LIMIT)

    thread = threading.Thread(target=recording.call, args=(wait,))
    thread.start()
    assert there.wait(LIMIT)
    try:
        yield
    finally:
        go_on.set()
        thread.join()
        recording.close()


def first_steps(model: Model) -> list[int]:
    """The windows in the order in which they began."""
    return list(dict.fromkeys(window for step in model.steps for window in step))


def words(count: int) -> list[int]:
    """A text of so many tokens."""
    return [300 + i % 90 for i in range(count)]
