"""Whose window is next in the engine, and who has to wait for a place."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from functools import partial

import numpy as np
import pytest

from tests.unit.decoding_fakes import FakeModel, FakeSession, Script, says, small_tokenizer
from whisper_npu.decoding.engine import Engine, Recording, Window, Work
from whisper_npu.decoding.options import DecodingOptions
from whisper_npu.decoding.task import Decoding
from whisper_npu.ops.probabilities import FLOATS

TOKENIZER = small_tokenizer()
WATER = TOKENIZER.encode(" the water")
PLACES = 4


class CountingModel(FakeModel):
    """Keeps the windows of every step, and what was encoded; waits where it is told to."""

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self.steps: list[list[int]] = []
        self.encoded: list[int] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.reached = threading.Event()
        self.looks_at: Callable[[Sequence[int]], None] = lambda windows: None

    def encode(self, features: np.ndarray) -> np.ndarray:
        window = round(float(features[0, 0, 0]))
        self.encoded.append(window)
        self.pause()
        return super().encode(features)

    def pause(self) -> None:
        if not self.go_on.is_set():
            self.reached.set()
            while not self.go_on.wait(0.005):
                if self.halt.asked:
                    raise InterruptedError

    def decoder(self, states: Sequence[np.ndarray], group: int = 1) -> FakeSession:
        return CountingSession(self, [round(float(window[0])) for window in states], group)


class CountingSession(FakeSession):
    model: CountingModel

    def step(self, tokens: np.ndarray) -> np.ndarray:
        self.model.steps.append(list(self.windows))
        self.model.pause()
        self.model.looks_at(self.windows)
        return super().step(tokens)


PLAIN = DecodingOptions(
    language="en", without_timestamps=True, suppress_tokens="", suppress_blank=False
)


def attempt(window: int) -> Callable[[], Decoding]:
    dims = FakeModel(says([])).dims
    return partial(Decoding, TOKENIZER, dims, PLAIN, None, window, FLOATS)


def window_of(recording: Recording, number: int) -> Window:
    return recording.window(np.full((2, 3000), number, np.float32))


def ask(recording: Recording, number: int) -> Work[Decoding]:
    return window_of(recording, number).decode(attempt(number))


def test_no_more_windows_than_places() -> None:
    model = CountingModel(says(lambda window: WATER * 6))
    engine = Engine(model, PLACES)
    with engine.open() as recording, engine.open(priority=1) as live:
        works = [ask(recording, number) for number in range(10)]
        works[0].result()
        works += [ask(live, 20 + number) for number in range(10)]
        wait(works)
    normal = [[n for n in windows if n < 20] for windows in model.steps]
    assert max(map(len, normal)) == PLACES
    # Those of a higher priority do not wait for a place, up to twice as many.
    assert PLACES < max(map(len, model.steps)) <= 2 * PLACES


def test_no_more_windows_than_places_where_all_are_encoded() -> None:
    model = CountingModel(says(lambda window: WATER * 6))
    engine = Engine(model, PLACES)
    with engine.open() as recording:
        windows = [window_of(recording, number) for number in range(10)]
        for window in windows:
            window.prefill([TOKENIZER.sot], [0]).result()
        model.go_on.clear()
        works = [ask(recording, 99)]
        assert model.reached.wait(10)
        works += [w.decode(attempt(n)) for n, w in enumerate(windows)]
        model.go_on.set()
        wait(works)
    assert max(map(len, model.steps)) == PLACES
    assert len(model.encoded) == 11


def test_a_place_is_left_for_a_recording_that_has_none() -> None:
    model = CountingModel(says(lambda window: WATER * 15))
    engine = Engine(model, PLACES)
    with engine.open() as long, engine.open() as short:
        asked: list[Work[Decoding]] = []

        def full(windows: Sequence[int]) -> None:
            if len(windows) == PLACES and not asked:
                with ThreadPoolExecutor(1) as other:
                    asked.append(other.submit(ask, short, 99).result())

        model.looks_at = full
        wait([ask(long, number) for number in range(12)])
        wait(asked)
    with_it = [windows for windows in model.steps if 99 in windows]
    assert len(with_it[0]) == PLACES + 1
    assert max(sum(n < 99 for n in windows) for windows in model.steps) == PLACES


def test_steps_go_on_while_windows_are_encoded() -> None:
    class Slow(CountingModel):
        def encode(self, features: np.ndarray) -> np.ndarray:
            time.sleep(0.2)
            return super().encode(features)

        def decoder(self, states: Sequence[np.ndarray], group: int = 1) -> FakeSession:
            self.steps_before = [*getattr(self, "steps_before", []), len(self.steps)]
            return super().decoder(states, group)

    model = Slow(says(lambda window: WATER * 15))
    engine = Engine(model, PLACES)
    with engine.open() as recording:
        wait([ask(recording, number) for number in range(3)])
    # For half as long, in which there are several of these steps.
    assert (np.diff(model.steps_before) > 2).all()


def test_a_long_recording_leaves_the_next_place_to_a_short_one() -> None:
    model = CountingModel(says(lambda window: WATER * 5))
    engine = Engine(model, PLACES)
    with engine.open() as long, engine.open() as short:
        model.go_on.clear()
        many = [ask(long, number) for number in range(20)]
        assert model.reached.wait(10)
        one = ask(short, 99)
        model.go_on.set()
        wait([*many, one])
    # Of the long one there were so many before as have places, and one more at most.
    assert model.encoded.index(99) <= PLACES


def test_priority() -> None:
    model = CountingModel(says(lambda window: WATER * 3))
    engine = Engine(model, 1)
    with engine.open() as one, engine.open(priority=2) as live, engine.open(priority=1) as near:
        model.go_on.clear()
        works = [ask(one, number) for number in range(5)]
        assert model.reached.wait(10)
        works += [ask(near, 30), ask(live, 40)]
        model.go_on.set()
        wait(works)
    assert model.encoded[1:3] == [40, 30]


def test_stopping() -> None:
    model = CountingModel(says(lambda window: WATER * 8))
    engine = Engine(model, PLACES)
    recording = engine.open()
    model.go_on.clear()
    works = [ask(recording, number) for number in range(6)]
    assert model.reached.wait(10)
    stopping = threading.Thread(target=engine.stop)
    stopping.start()
    for work in works:
        with pytest.raises(CancelledError):
            work.result(10)
    stopping.join(10)
    assert not stopping.is_alive()
    assert engine._thread is None
