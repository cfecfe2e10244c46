"""Whose window is next in the engine, and who has to wait for a place."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.unit.decoding_fakes import FakeModel, FakeSession, says, small_tokenizer
from whisper_npu.decoding.engine import Engine, Recording, Window, Work
from whisper_npu.decoding.options import DecodingOptions, DecodingResult
from whisper_npu.decoding.task import Decoding, decode
from whisper_npu.ops.probabilities import FLOATS

TOKENIZER = small_tokenizer()
BEGIN = TOKENIZER.timestamp_begin
WATER = TOKENIZER.encode(" the water")
PLACES = 4


def length_of(window: int) -> int:
    return 1 + window * 7 % 23


def plan(window: int) -> list[int]:
    return [WATER[i % 2] + window for i in range(length_of(window))]


class CountingModel(FakeModel):
    """Keeps the windows of every step, and what was encoded; waits where it is told to."""

    def __init__(self, script: Any = None) -> None:
        super().__init__(script or says(plan))
        self.steps: list[list[int]] = []
        self.encoded: list[int] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.reached = threading.Event()
        self.fails: Callable[[Sequence[int]], None] = lambda windows: None

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
        self.model.fails(self.windows)
        return super().step(tokens)


def attempt(options: DecodingOptions, window: int) -> Callable[[], Decoding]:
    dims = FakeModel(says([])).dims
    return partial(Decoding, TOKENIZER, dims, options, None, window, FLOATS)


def plain(**options: Any) -> DecodingOptions:
    return DecodingOptions(
        language="en", without_timestamps=True, suppress_tokens="", suppress_blank=False, **options
    )


def window_of(recording: Recording, number: int) -> Window:
    return recording.window(np.full((2, 3000), number, np.float32))


def ask(
    recording: Recording, number: int, options: DecodingOptions | None = None
) -> Work[Decoding]:
    return window_of(recording, number).decode(attempt(options or plain(), number))


def alone(number: int, options: DecodingOptions, script: Any = None) -> DecodingResult:
    states = np.full((1, 1), number, np.float32)
    model = FakeModel(script or says(plan))
    (result,) = decode(model, TOKENIZER, states, options, seeks=[number])
    return result


def random_logits(window: int, context: tuple[int, ...]) -> Mapping[int, float]:
    """Of some tokens; the end is likely after some time."""
    random = np.random.RandomState([window, *context])
    ids = random.choice(np.r_[200:260, TOKENIZER.eot], 12, replace=False)
    values = dict(zip(ids.tolist(), (3 * random.standard_normal(12)).tolist(), strict=True))
    values[TOKENIZER.eot] = len(context) / 4 - 1
    return values


def ends(engine: Engine) -> bool:
    """Whether the engine's thread ends."""
    began = time.monotonic()
    while engine._thread is not None and time.monotonic() < began + 10:
        time.sleep(0.002)
    return engine._thread is None


OPTIONS = [
    plain(),
    plain(sample_len=3),
    plain(beam_size=3),
    plain(beam_size=3, patience=2.0, length_penalty=0.5),
    plain(beam_size=2),
    plain(temperature=0.7, best_of=3),
    plain(temperature=1.0, best_of=2, seed=5),
    plain(temperature=0.4),
]


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
        works += [w.decode(attempt(plain(), n)) for n, w in enumerate(windows)]
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

        model.fails = full
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
    # For half as long, in which there are many of these steps.
    assert (np.diff(model.steps_before) > 5).all()


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


@pytest.mark.parametrize("at", ["encoding", "waiting", "decoding"])
def test_a_recording_that_is_closed_leaves(at: str) -> None:
    model = CountingModel(says(lambda window: WATER * 10))
    engine = Engine(model, PLACES)
    with engine.open() as going, engine.open() as leaving:
        if at == "decoding":
            kept = ask(going, 1)
            gone = [ask(leaving, 2), ask(leaving, 3)]
            began = time.monotonic()
            while not any(2 in s and 3 in s for s in model.steps[-1:]):
                assert time.monotonic() < began + 10
        model.go_on.clear()
        if at == "encoding":
            gone = [ask(leaving, 2)]
            assert model.reached.wait(10)
            kept = ask(going, 1)
        elif at == "waiting":
            kept = ask(going, 1)
            assert model.reached.wait(10)
            gone = [ask(leaving, 2), ask(leaving, 3)]
        else:
            assert model.reached.wait(10)
        steps = len(model.steps)
        leaving.close()
        if at == "encoding":
            # It is broken off.
            with pytest.raises(CancelledError):
                gone[0].result(10)
        model.go_on.set()
        for work in gone:
            with pytest.raises(CancelledError):
                work.result(10)
        assert kept.result(10).result() == alone(1, plain(), says(lambda window: WATER * 10))
        # Not in a step that begins after that.
        assert all({2, 3}.isdisjoint(windows) for windows in model.steps[steps:])
        with pytest.raises(CancelledError):
            ask(leaving, 5)
        with pytest.raises(CancelledError):
            leaving.call(int)
        assert not model.halt.asked
    assert ends(engine)


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
