"""The engine: windows of many recordings side by side, each as it is alone."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
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
from whisper_npu.errors import ModelError
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


def test_what_a_window_gives_does_not_depend_on_its_company() -> None:
    """Of threads that come and go, with all kinds of options, three times."""
    expected = {
        (number, i): alone(number, options, random_logits)
        for number in range(12)
        for i, options in enumerate(OPTIONS)
    }
    for seed in range(3):
        model = CountingModel(random_logits)
        engine = Engine(model, PLACES)

        def work(thread: int, engine: Engine = engine, seed: int = seed) -> None:
            chance = np.random.RandomState([seed, thread])
            with engine.open() as recording:
                for _ in range(12):
                    asked = [
                        (int(chance.randint(12)), int(chance.randint(len(OPTIONS))))
                        for _ in range(chance.randint(1, 4))
                    ]
                    works = [ask(recording, number, OPTIONS[i]) for number, i in asked]
                    for key, found in zip(asked, works, strict=True):
                        assert found.result().result() == expected[key]
                    time.sleep(0.002 * chance.rand())

        with ThreadPoolExecutor(6) as threads:
            for done in [threads.submit(work, thread) for thread in range(6)]:
                done.result()
        assert ends(engine)
        # There was company, of different windows at different positions.
        assert max(map(len, model.steps)) >= 3
        assert engine._sides == {}


def test_a_window_that_ended_leaves_its_place_to_the_next_at_once() -> None:
    model = CountingModel()
    engine = Engine(model, PLACES)
    numbers = list(range(12))
    with engine.open() as recording:
        works = [ask(recording, number) for number in numbers]
        for number, work in zip(numbers, works, strict=True):
            assert list(work.result().result().tokens) == plan(number)
    assert max(map(len, model.steps)) == PLACES
    # Each window takes steps that follow each other, one for each token; the places are not empty
    # for longer than windows are encoded one by one.
    for number in numbers:
        at = [i for i, windows in enumerate(model.steps) if number in windows]
        assert at == list(range(at[0], at[0] + length_of(number)))
    full = sum(len(windows) == PLACES for windows in model.steps)
    assert full > len(model.steps) / 2
    assert model.encoded == numbers


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


def test_recordings_take_turns() -> None:
    model = CountingModel(says(lambda window: WATER))
    engine = Engine(model, 1)
    with engine.open() as one, engine.open() as other:
        model.go_on.clear()
        works = [ask(one, number) for number in range(4)]
        works += [ask(other, 10 + number) for number in range(4)]
        model.go_on.set()
        wait(works)
    assert sorted(model.encoded[:2]) in ([0, 1], [0, 10])
    assert set(model.encoded) == {*range(4), *range(10, 14)}


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


def test_an_error_of_a_window_is_its_recordings_alone() -> None:
    def script(window: int, context: tuple[int, ...]) -> Mapping[int, float]:
        if window == 3 and len(context) > 8:
            return {WATER[0]: float("nan")}
        return says(lambda window: WATER * 6)(window, context)

    engine = Engine(CountingModel(script), PLACES)
    with engine.open() as one, engine.open() as other:
        works = [ask(one, number) for number in (1, 2)]
        failed = ask(other, 3)
        for number, work in zip((1, 2), works, strict=True):
            assert work.result().result() == alone(number, plain(), script)
        with pytest.raises(ModelError, match="not finite"):
            failed.result().result()
        # That recording goes on, too.
        assert ask(other, 4).result().result() == alone(4, plain(), script)


def test_a_step_that_fails_is_tried_with_each_window_alone() -> None:
    model = CountingModel(says(lambda window: WATER * 6))
    failures: list[list[int]] = []

    def fails(windows: Sequence[int]) -> None:
        if 3 in windows and sum(3 in step for step in model.steps) > 4:
            failures.append(list(windows))
            raise MemoryError(f"of {windows}")

    model.fails = fails
    engine = Engine(model, PLACES)
    expected = alone(1, plain(), model.script)
    with engine.open() as one, engine.open() as other:
        model.go_on.clear()
        works = [ask(one, number) for number in (1, 2)]
        failed = ask(other, 3)
        model.go_on.set()
        assert works[0].result().result().tokens == expected.tokens
        assert works[1].result().result().tokens == expected.tokens
        with pytest.raises(MemoryError, match=r"of \[3\]"):
            failed.result()
    assert sorted(failures[0]) == [1, 2, 3]
    assert failures[-1] == [3]
    assert engine._sides == {}


def test_a_window_that_cannot_be_encoded_is_its_recordings_alone() -> None:
    class Damaged(CountingModel):
        def encode(self, features: np.ndarray) -> np.ndarray:
            if features[0, 0, 0] == 2:
                raise MemoryError("no room")
            return super().encode(features)

    engine = Engine(Damaged(), PLACES)
    with engine.open() as one, engine.open() as other:
        works = ask(one, 1), ask(other, 2), ask(one, 3)
        with pytest.raises(MemoryError, match="no room"):
            works[1].result()
        for number, work in ((1, works[0]), (3, works[2])):
            assert work.result().result() == alone(number, plain())


def test_work_between_steps_and_its_errors() -> None:
    model = CountingModel()
    engine = Engine(model, PLACES)
    within: list[str] = []
    with engine.open() as recording:
        works = [ask(recording, number) for number in range(6)]
        found = recording.call(lambda: within.append(threading.current_thread().name) or 7)
        assert found == 7
        with pytest.raises(ZeroDivisionError):
            recording.call(lambda: 1 // 0)
        wait(works)
    assert within == ["whisper-npu-engine"]
    assert engine.call(lambda: 3) == 3
    assert ends(engine)


def test_visits_and_alignment() -> None:
    engine = Engine(CountingModel(random_logits), PLACES)
    with engine.open() as recording:
        window = window_of(recording, 4)
        logits = window.prefill([TOKENIZER.sot], [0]).result()
        expected = FakeSession(FakeModel(random_logits), [4], 1).prefill(
            np.array([[TOKENIZER.sot]]), [0]
        )
        assert np.array_equal(logits, expected[0])
        with pytest.raises(NotImplementedError):
            window.align(np.array([1]), [])
        # Encoded once.
        window.decode(attempt(plain(), 4)).result()
        assert engine.model.n_encoded == 1  # type: ignore[attr-defined]


def test_counts() -> None:
    model = CountingModel()
    engine = Engine(model, PLACES)
    with engine.open() as one, engine.open() as other:
        wait([ask(one, 1), ask(one, 2), ask(other, 3)])
        assert (one.counts_so_far().encoded, other.counts_so_far().encoded) == (2, 1)


def test_a_thread_while_a_recording_is_open() -> None:
    engine = Engine(CountingModel(), PLACES)
    assert engine._thread is None
    with engine.open() as recording:
        ask(recording, 1).result()
        time.sleep(0.05)
        assert engine._thread is not None
        other = engine.open()
        ask(other, 2).result()
    assert engine._thread is not None
    other.close()
    assert ends(engine)
    # And again.
    with engine.open() as recording:
        assert ask(recording, 3).result().result() == alone(3, plain())
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


def test_memory_is_given_back_without_the_garbage_collector() -> None:
    model = CountingModel()
    engine = Engine(model, PLACES)
    recording = engine.open()
    window = window_of(recording, 1)
    window.decode(attempt(plain(), 1)).result()
    alive = [weakref.ref(thing) for thing in (model, engine, recording, window)]
    recording.close()
    assert ends(engine)
    gc.collect()
    gc.disable()
    try:
        del model, engine, recording, window
        began = time.monotonic()
        while any(ref() is not None for ref in alive) and time.monotonic() < began + 10:
            time.sleep(0.005)
        assert [ref() for ref in alive] == [None] * 4
    finally:
        gc.enable()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_process_asks_anew() -> None:
    model = CountingModel(says(lambda window: WATER * 8))
    engine = Engine(model, PLACES)
    expected = alone(1, plain(), model.script)
    with engine.open() as recording:
        model.go_on.clear()
        work = ask(recording, 1)
        assert model.reached.wait(10)
        assert not work.lost
        child = os.fork()
        if child == 0:
            code = 1
            try:
                model.go_on = threading.Event()
                model.go_on.set()
                again = ask(recording, 1)
                if work.lost and again.result(10).result() == expected:
                    code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        model.go_on.set()
        assert work.result().result() == expected
