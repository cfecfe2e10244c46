"""The engine: windows of any recordings side by side, and what becomes of each."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from tests.unit.decoding_fakes import (
    FakeCounts,
    FakeFeatures,
    FakeModel,
    FakeSession,
    Script,
    begin_transcript,
    says,
    small_tokenizer,
)
from tests.unit.random_decoding import seeded
from whisper_npu.decoding import engine as engine_module
from whisper_npu.decoding import task
from whisper_npu.decoding.engine import PLACES, Engine, Recording, Work
from whisper_npu.decoding.options import DecodingOptions, DecodingResult, TranscribeOptions
from whisper_npu.decoding.task import Decoding
from whisper_npu.decoding.windows import Transcript
from whisper_npu.errors import ModelError

TOKENIZER = small_tokenizer()
GREEDY = DecodingOptions(language="en", without_timestamps=True)
# Longer than any of these tests takes: what is waited for comes, or never.
LIMIT = 30.0


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
    model = recording.model
    window = recording.window(np.full((2, model.dims.n_frames), number, np.float32))
    return window.decode(partial(decoding, model, number, options))


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


def wait_for(condition: Callable[[], object], what: str = "it does not happen") -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.001)


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


OPTIONS = (
    GREEDY,
    DecodingOptions(language="en"),
    DecodingOptions(language="en", prompt=(5, 6, 7)),
    DecodingOptions(language="en", beam_size=3),
    DecodingOptions(language="en", beam_size=3, patience=2.0, prompt=(9,)),
    DecodingOptions(language="en", temperature=0.7),
    DecodingOptions(language="en", temperature=1.0, best_of=3, seed=4),
    DecodingOptions(language="en", without_timestamps=True, sample_len=1),
    DecodingOptions(language="en", without_timestamps=True, beam_size=2, sample_len=5),
)


@pytest.mark.parametrize("seed", range(8))
def test_results_do_not_depend_on_company(seed: int) -> None:
    chance = seeded("company", seed)
    model = Model(babble)
    engine = Engine(model, places=chance.choice([2, 5, PLACES]))
    asked: dict[int, DecodingOptions] = {}
    for number in range(40):
        sampled = replace(chance.choice(OPTIONS), seed=chance.randrange(3))
        asked[number] = sampled
    found: dict[int, DecodingResult] = {}

    def transcribe(numbers: Sequence[int], pauses: Sequence[float], priority: int) -> None:
        with engine.open(priority) as recording:
            works = []
            for number, pause in zip(numbers, pauses, strict=True):
                time.sleep(pause)
                works.append((number, ask(recording, number, asked[number])))
            for number, work in works:
                found[number] = result_of(work)

    threads = []
    for start in range(5):
        numbers = list(range(start, 40, 5))
        pauses = [chance.choice([0, 0, 0.002, 0.01]) for _ in numbers]
        threads.append(
            threading.Thread(target=transcribe, args=(numbers, pauses, chance.choice([-1, 0, 1])))
        )
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: alone(babble, number, asked[number]) for number in asked}
    assert any(len(set(step)) > 1 for step in model.steps)


def test_the_next_window_takes_a_place_at_once() -> None:
    model = Model(says(words(40)), n_text_ctx=128)
    engine = Engine(model)
    with engine.open() as recording:
        with held(engine):
            works = [ask(recording, number) for number in range(24)]
        for work in works:
            assert result_of(work).tokens == tuple(words(40))
    sizes = [len(step) for step in model.steps]
    assert max(sizes) == PLACES
    # They begin two steps apart and take as long, so that they end two steps apart too.
    full = sizes.index(PLACES)
    last = next(i for i, step in enumerate(model.steps) if 23 in step)
    assert last > full + 40
    assert min(sizes[full:last]) >= PLACES - 1
    assert first_steps(model) == list(range(24))


def test_windows_above_priority_0_have_as_many_places_again() -> None:
    model = Model(says(words(60)), n_text_ctx=128)
    engine = Engine(model)
    with engine.open() as plain, engine.open(1) as urgent:
        with held(engine):
            works = [ask(plain, number) for number in range(100, 110)]
            works += [ask(urgent, number) for number in range(20)]
        for work in works:
            result_of(work)
    assert max(map(len, model.steps)) == 2 * PLACES
    # All of them before any other; others only where there is one of their own places.
    assert first_steps(model) == [*range(20), *range(100, 110)]
    begun: set[int] = set()
    for step in model.steps:
        if set(step) & set(range(100, 110)) - begun:
            # One is left for a recording that has none.
            assert len(step) <= PLACES + 1
        begun |= set(step)


def test_priority_below_0_goes_last() -> None:
    model = Model(says(words(5)))
    engine = Engine(model, places=1)
    with engine.open(-1) as patient, engine.open() as plain, engine.open(2) as urgent:
        with held(engine):
            works = [
                ask(recording, number + 10 * i)
                for number in range(3)
                for i, recording in enumerate((patient, plain, urgent))
            ]
        for work in works:
            result_of(work)
    # An urgent one need not wait for the only place.
    assert model.encoded == [20, 21, 22, 10, 11, 12, 0, 1, 2]


def test_recordings_take_turns() -> None:
    model = Model(says(words(30)))
    engine = Engine(model)
    with engine.open() as one, engine.open() as other:
        with held(engine):
            works = [ask(one, number) for number in range(6)]
            works += [ask(other, number) for number in range(10, 16)]
        for work in works:
            result_of(work)
    assert model.encoded[:8] == [0, 10, 1, 11, 2, 12, 3, 13]


def test_many_windows_do_not_keep_one_from_the_next_place() -> None:
    model = Model(says(words(50)), n_text_ctx=128)
    engine = Engine(model)
    full, asked = threading.Event(), threading.Event()

    def wait_when_full(session: FakeSession) -> None:
        if session.n_audio == PLACES and not full.is_set():
            full.set()
            assert asked.wait(LIMIT)

    model.before_step = wait_when_full
    with engine.open() as long, engine.open() as short:
        works = [ask(long, number) for number in range(30)]
        assert full.wait(LIMIT)
        begun = len(model.encoded)
        works.append(ask(short, 99))
        asked.set()
        result_of(works[-1])
        assert model.encoded[begun] == 99
        for work in works:
            result_of(work)


def test_what_is_called_runs_between_steps() -> None:
    model = Model(says(words(30)))
    engine = Engine(model)
    names: set[str] = set()

    def look() -> int:
        names.add(threading.current_thread().name)
        return model.runs

    with engine.open() as recording:
        works = [ask(recording, number) for number in range(12)]
        found = [engine.call(look) for _ in range(20)]
        found += [recording.call(look) for _ in range(20)]
        for work in works:
            result_of(work)
    assert found == [0] * 40
    assert names == {"whisper-npu-engine"}
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda: 1 // 0)


def test_what_is_called_where_nothing_runs() -> None:
    engine = Engine(Model(babble))
    assert engine.call(threading.current_thread) is threading.current_thread()


def test_the_thread_ends_with_the_last_recording() -> None:
    model = Model(babble)
    engine = Engine(model)
    for _ in range(3):
        with engine.open() as one:
            with engine.open() as other:
                result_of(ask(other, 1))
            result_of(ask(one, 2))
            assert not has_ended(engine)
        wait_for(lambda: has_ended(engine))
    wait_for(lambda: "whisper-npu-engine" not in {t.name for t in threading.enumerate()})
    assert (engine._works, engine._recordings, engine._sides) == (set(), set(), {})


# What goes wrong.


def test_numbers_that_are_none_are_one_windows_own() -> None:
    def script(window: int, context: tuple[int, ...]) -> Mapping[int, float]:
        broken = window == 3 and len(context) > 6
        return {300: np.nan} if broken else babble(window, context)

    model = Model(script)
    engine = Engine(model)
    with engine.open() as bad, engine.open() as good:
        with held(engine):
            guilty = ask(bad, 3)
            works = {number: ask(good, number) for number in (1, 2, 4, 5)}
        with pytest.raises(ModelError, match="finite"):
            result_of(guilty)
        for number, work in works.items():
            assert result_of(work) == alone(babble, number)
    # None was decoded twice.
    assert Counter(map(len, model.prompts)) == {len(decoding(model, 0, GREEDY).prompt): 5}


@pytest.mark.parametrize("stage", ["step", "prompt"])
@pytest.mark.parametrize("guilty", [None, 3])
def test_an_error_of_several_is_tried_with_each_alone(stage: str, guilty: int | None) -> None:
    def fail(session: FakeSession) -> None:
        too_many = guilty is None and len(session.windows) > 2
        if too_many or guilty in session.windows:
            raise MemoryError("no room")

    model = Model(babble)
    if stage == "step":
        model.before_step = fail
    else:
        model.before_prefill = fail
    engine = Engine(model)
    asked = {number: OPTIONS[number % len(OPTIONS)] for number in range(10)}
    asked[3] = GREEDY
    with engine.open() as one, engine.open() as other:
        with held(engine):
            works = {
                number: ask(other if number == 3 else one, number, options)
                for number, options in asked.items()
            }
        for number, work in works.items():
            if number == guilty:
                with pytest.raises(MemoryError, match="no room"):
                    result_of(work)
            else:
                assert result_of(work) == alone(babble, number, asked[number])


def test_an_error_of_encoding_is_one_windows_own() -> None:
    def fail(window: int) -> None:
        if window == 2:
            raise MemoryError("no room")

    model = Model(babble)
    model.before_encode = fail
    engine = Engine(model)
    with engine.open() as bad, engine.open() as good:
        with held(engine):
            works = [ask(bad if number == 2 else good, number) for number in range(5)]
        with pytest.raises(MemoryError, match="no room"):
            result_of(works[2])
        for number in (0, 1, 3, 4):
            assert result_of(works[number]) == alone(babble, number)
        assert result_of(ask(bad, 6)) == alone(babble, 6)


def test_a_fault_of_the_engine_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those either whose windows are being moved from one place to another."""
    model = Model(babble)
    engine = Engine(model)
    for name in ("_begin", "_share", "_settle", "_turn", "_encode"):
        with engine.open() as recording, monkeypatch.context() as patch:
            with held(engine):
                works = [ask(recording, number, OPTIONS[number]) for number in range(8)]

                def fail(*_: Any) -> None:
                    raise MemoryError("in the engine")

                patch.setattr(engine, name, fail)
            for work in works:
                with pytest.raises(MemoryError, match="in the engine"):
                    result_of(work)
        with engine.open() as recording:
            assert result_of(ask(recording, 1)) == alone(babble, 1)


def test_a_thread_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    engine = Engine(Model(babble))
    with engine.open() as recording:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fail)
            with pytest.raises(RuntimeError, match="start new thread"):
                ask(recording, 1)
        assert result_of(ask(recording, 2)) == alone(babble, 2)


@pytest.mark.parametrize("what", ["own", "shared"])
def test_errors_that_are_kept_keep_no_windows(what: str) -> None:
    """Who collects errors does not collect the caches of what failed."""
    sessions: weakref.WeakSet[FakeSession] = weakref.WeakSet()

    def script(window: int, context: tuple[int, ...]) -> Mapping[int, float]:
        return {300: np.nan} if what == "own" and len(context) > 6 else babble(window, context)

    def fail(session: FakeSession) -> None:
        sessions.add(session)
        if what == "shared":
            raise MemoryError("no room")

    model = Model(script)
    model.before_prefill = fail
    engine = Engine(model)
    errors = []
    gc.disable()
    try:
        with engine.open() as recording:
            for number in range(3):
                with pytest.raises((ModelError, MemoryError)) as found:
                    result_of(ask(recording, number))
                errors.append(found.value)
        wait_for(lambda: not sessions, "a session is kept")
    finally:
        gc.enable()
    assert len(errors) == 3


# What is given up.


def test_a_recording_that_is_closed_leaves_within_a_step() -> None:
    model = Model(says(words(30)))
    engine = Engine(model)
    decoded, closed = threading.Event(), threading.Event()

    def wait(session: FakeSession) -> None:
        if {1, 11} <= set(session.windows) and not decoded.is_set():
            decoded.set()
            assert closed.wait(LIMIT)

    model.before_step = wait
    with engine.open() as one, engine.open() as other:
        with held(engine):
            given_up = [ask(one, number) for number in range(10)]
            kept = [ask(other, number) for number in range(10, 20)]
        assert decoded.wait(LIMIT)
        n_steps = len(model.steps)
        one.close()
        # Those that wait for a place are told at once.
        for work in given_up[5:]:
            with pytest.raises(CancelledError):
                work.result(0)
        closed.set()
        for work in given_up:
            with pytest.raises(CancelledError):
                work.result(LIMIT)
        for work in kept:
            assert result_of(work).tokens == tuple(words(30))
        assert all(window >= 10 for step in model.steps[n_steps:] for window in step)
        with pytest.raises(CancelledError):
            ask(one, 1)
        with pytest.raises(CancelledError):
            one.call(lambda: None)


def test_a_recording_that_is_closed_while_it_is_encoded() -> None:
    model = Model(babble)
    engine = Engine(model)
    encodes = threading.Event()

    def encode(window: int) -> None:
        if window == 1:
            encodes.set()
            wait_for(lambda: model.halt.asked)
            raise RuntimeError("halted")

    model.before_encode = encode
    with engine.open() as one, engine.open() as other:
        given_up = ask(one, 1)
        assert encodes.wait(LIMIT)
        kept = ask(other, 2)
        one.close()
        with pytest.raises(CancelledError):
            given_up.result(LIMIT)
        assert result_of(kept) == alone(babble, 2)
    assert not model.halt.asked


def test_closing_another_recording_does_not_halt_what_is_encoded() -> None:
    model = Model(babble)
    engine = Engine(model)
    encodes, closed = threading.Event(), threading.Event()

    def encode(window: int) -> None:
        encodes.set()
        assert closed.wait(LIMIT)
        assert not model.halt.asked

    model.before_encode = encode
    with engine.open() as one, engine.open() as other:
        kept = ask(one, 1)
        assert encodes.wait(LIMIT)
        given_up = ask(other, 2)
        other.close()
        closed.set()
        assert result_of(kept) == alone(babble, 1)
        with pytest.raises(CancelledError):
            given_up.result(LIMIT)


def test_what_failed_with_others_is_not_tried_again_once_it_is_closed() -> None:
    model = Model(says(words(30)))
    engine = Engine(model)
    fails, closed = threading.Event(), threading.Event()

    def fail(session: FakeSession) -> None:
        if len(session.windows) == 4:
            fails.set()
            assert closed.wait(LIMIT)
            raise MemoryError("no room")

    model.before_step = fail
    with engine.open() as one, engine.open() as other:
        with held(engine):
            given_up = [ask(one, number) for number in (1, 2)]
            kept = {number: ask(other, number) for number in (3, 4)}
        assert fails.wait(LIMIT)
        n_prompts = len(model.prompts)
        one.close()
        closed.set()
        for work in given_up:
            with pytest.raises(CancelledError):
                work.result(LIMIT)
        for work in kept.values():
            assert result_of(work).tokens == tuple(words(30))
    assert len(model.prompts) == n_prompts + 2


def closing(victim: Recording, before: int) -> Callable[[FrameType, str, Any], Any]:
    """A trace function that closes a recording once so many lines of the engine have run."""
    lines = count()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != engine_module.__file__:
            return None
        if event == "line" and next(lines) == before:
            victim.close()
        return trace

    return trace


def test_closed_at_any_moment_by_a_finalizer_in_any_thread() -> None:
    """Memory is collected between any two lines of the engine, in its thread or in another."""
    expected = {number: alone(babble, number) for number in range(4)}
    chance = seeded("finalizers")
    n_closed = 0
    for _ in range(250):
        engine = Engine(Model(babble), places=3)
        victim, kept = engine.open(), engine.open()
        before = chance.randrange(2500 if chance.random() < 0.7 else 200)
        trace = closing(victim, before)
        given_up = []
        threading.settrace(trace)
        sys.settrace(trace)
        try:
            works = {}
            for number in range(4):
                works[number] = ask(kept, number)
                try:
                    given_up.append(ask(victim, number))
                except CancelledError:
                    n_closed += 1
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]
        for number, work in works.items():
            assert result_of(work) == expected[number]
        for number, work in enumerate(given_up):
            try:
                assert work.result(LIMIT).result() == expected[number]
            except CancelledError:
                n_closed += 1
        victim.close()
        kept.close()
        wait_for(lambda engine=engine: has_ended(engine), "the thread does not end")
        assert (engine._works, engine._jobs, engine._recordings) == (set(), [], set())
    assert n_closed > 100


def test_a_finalizer_within_the_engine_does_not_wait_for_it() -> None:
    model = Model(babble)
    engine = Engine(model)
    found: list[Any] = []

    def finalize(session: FakeSession) -> None:
        if found:
            return
        found.append(engine.reentered)
        engine.later(lambda: found.append(model.runs))
        with pytest.raises(RuntimeError, match="finalizer"):
            engine.open().call(lambda: None)

    model.before_step = finalize
    with engine.open() as recording:
        assert not engine.reentered
        assert result_of(ask(recording, 1)) == alone(babble, 1)
    wait_for(lambda: len(found) == 2)
    assert found == [True, 0]


def test_a_finalizer_that_looks_at_counts_leaves_the_state_to_its_thread() -> None:
    engine = Engine(Model(babble))
    with engine.open() as recording:
        with engine._locked():
            recording.counts_so_far()
            assert engine.reentered
            # As that of a finalizer: it is put off.
            recording.close()
            assert engine._recordings == {recording}
        assert not engine.reentered
        recording.counts_so_far()
        assert engine._recordings == set()


def test_what_finalizers_raise_is_told_and_stops_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine = Engine(Model(babble))
    with engine.open() as recording:
        result_of(ask(recording, 1))
        engine.later(lambda: 1 // 0)
        assert result_of(ask(recording, 2)) == alone(babble, 2)
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_transcript_that_is_dropped_frees_its_model() -> None:
    model = Model(says(words(4)))
    known = weakref.ref(model)
    transcript = transcript_of(model, batch_size=4)
    gc.collect()
    gc.disable()
    try:
        next(transcript)
        del transcript, model
        wait_for(lambda: known() is None, "the model is kept")
    finally:
        gc.enable()


# What is counted.


def test_what_is_shared_counts_for_all_and_its_time_is_shared() -> None:
    lengths = {0: 30, 1: 10, 2: 20, 3: 25, 4: 5}
    model = Model(says(lambda window: words(lengths[window])))
    engine = Engine(model)
    with engine.open() as one, engine.open() as other:
        with held(engine):
            works = [ask(one if number in (0, 4) else other, number) for number in lengths]
        for work in works:
            result_of(work)
        counts = [one.counts_so_far(), other.counts_so_far()]
    wait_for(lambda: has_ended(engine))
    for own, found in zip(({0, 4}, {1, 2, 3}), counts, strict=True):
        together = [step for step in model.steps if own & set(step)]
        assert found.steps == len(together)
        share = sum(len(own & set(step)) / len(step) for step in together)
        assert found.seconds == pytest.approx(share)
        assert found.encoded == len(own)
    assert sum(found.seconds for found in counts) == pytest.approx(len(model.steps))
    assert any(len(set(step) & {0, 4}) < len(step) for step in model.steps)


# Processes.


def transcript_of(model: FakeModel, n_windows: int = 12, **options: Any) -> Transcript:
    features = FakeFeatures(n_windows * model.dims.n_frames)
    features.window = lambda seek, size=None: np.full(  # type: ignore[method-assign]
        (2, model.dims.n_frames), seek, np.float32
    )
    checked = TranscribeOptions(
        language="en", temperature=0.0, condition_on_previous_text=False, **options
    )
    return begin_transcript(model, TOKENIZER, features, checked)


def in_child(work: Callable[[], object]) -> None:
    """Do something in a forked process. Raises if that fails there, or does not end."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(1)
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert status == 0
            return
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the child does not end")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_begins_anew() -> None:
    model = Model(says(words(30)))
    engine = Engine(model)

    def transcribe() -> None:
        assert has_ended(engine)
        with engine.open() as recording:
            assert result_of(ask(recording, 1)).tokens == tuple(words(30))
        wait_for(lambda: has_ended(engine))

    in_child(transcribe)
    with engine.open() as recording:
        works = [ask(recording, number) for number in range(12)]
        for _ in range(5):
            in_child(transcribe)
        for work in works:
            assert result_of(work).tokens == tuple(words(30))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_transcript_goes_on_in_a_forked_process() -> None:
    def model() -> Model:
        return Model(says(lambda window: words(10 + window // 4 % 5)))

    whole = list(transcript_of(model(), batch_size=4))
    transcript = transcript_of(model(), batch_size=4)
    found = [next(transcript)]

    def go_on() -> None:
        assert found + list(transcript) == whole

    for _ in range(4):
        in_child(go_on)
        found.append(next(transcript))
    assert found + list(transcript) == whole


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_is_forked_while_a_result_is_given_out() -> None:
    """The lock of what it is given to has no owner in the child."""
    transcript = transcript_of(Model(says(words(10))), batch_size=2)
    next(transcript)
    (work,) = [lane.work for lane in transcript._lanes if lane.work is not None][:1]
    locked, forked = threading.Event(), threading.Event()

    def hold() -> None:
        with work._condition:
            locked.set()
            forked.wait(LIMIT)

    thread = threading.Thread(target=hold)
    thread.start()
    assert locked.wait(LIMIT)
    try:
        in_child(lambda: list(transcript))
    finally:
        forked.set()
        thread.join()


END = """
import atexit, threading, time

# Registered first, it runs last.
atexit.register(lambda: print([t.name for t in threading.enumerate() if "engine" in t.name]))
from tests.unit.test_engine import Engine, Model, babble, ask
from concurrent.futures import CancelledError

model = Model(babble)
model.before_step = lambda session: time.sleep(0.01)
engine = Engine(model)

def work():
    while True:
        try:
            with engine.open() as recording:
                for each in [ask(recording, number) for number in range(20)]:
                    each.result()
        except CancelledError:
            pass

def linger():
    with engine.open():
        time.sleep(1000)

for target in (work, work, work, linger):
    threading.Thread(target=target, daemon=True).start()
while len(model.steps) < 5:
    time.sleep(0.01)
print("ends")
"""


def test_a_program_ends_while_its_daemons_transcribe() -> None:
    """They begin again and again, and one never asks for anything."""
    found = subprocess.run(
        [sys.executable, "-c", END], cwd=Path(__file__).parents[2], timeout=LIMIT,
        capture_output=True, text=True,
    )  # fmt: skip
    assert (found.returncode, found.stdout, found.stderr) == (0, "ends\n[]\n", "")


def test_stopped_it_takes_nothing_any_more() -> None:
    engine = Engine(Model(babble))
    recording = engine.open()
    works = [ask(recording, number) for number in range(20)]
    engine.stop()
    assert has_ended(engine)
    for work in works:
        with suppress(CancelledError):
            work.result(0)
    with pytest.raises(CancelledError):
        ask(engine.open(), 1)
    assert engine.call(lambda: 1) == 1


def test_stopping_does_not_wait_for_what_is_opened_meanwhile() -> None:
    model = Model(babble)
    engine = Engine(model)
    runs, opened = threading.Event(), threading.Event()

    def wait(session: FakeSession) -> None:
        runs.set()
        assert opened.wait(LIMIT)

    model.before_step = wait
    ask(engine.open(), 1)
    assert runs.wait(LIMIT)
    stops = threading.Thread(target=engine.stop, daemon=True)
    stops.start()
    wait_for(lambda: engine._stopped)
    late = engine.open()
    opened.set()
    stops.join(LIMIT)
    assert not stops.is_alive()
    assert late.cancelled is False
