"""What the engine gives up, and where it ends: closed recordings, finalizers, forks, exit."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from tests.support.waiting import LIMIT, wait_for
from tests.unit.decoding_fakes import (
    FakeFeatures,
    FakeModel,
    FakeSession,
    begin_transcript,
    says,
)
from tests.unit.engine_fakes import (
    TOKENIZER,
    Model,
    alone,
    ask,
    babble,
    has_ended,
    held,
    result_of,
    words,
)
from tests.unit.random_decoding import seeded
from whisper_npu.decoding import engine as engine_module
from whisper_npu.decoding.engine import Engine, Recording
from whisper_npu.decoding.options import TranscribeOptions
from whisper_npu.decoding.windows import Transcript

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
