"""The engine: windows of any recordings side by side, and what becomes of each."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.support.waiting import LIMIT, wait_for
from tests.unit.decoding_fakes import (
    FakeSession,
    says,
)
from tests.unit.engine_fakes import (
    GREEDY,
    TOKENIZER,
    Model,
    alone,
    ask,
    babble,
    decoding,
    first_steps,
    has_ended,
    held,
    result_of,
    window_of,
    words,
)
from tests.unit.random_decoding import seeded
from whisper_npu.decoding.engine import PLACES, Engine, Work
from whisper_npu.decoding.options import DecodingOptions, DecodingResult
from whisper_npu.decoding.task import Decoding
from whisper_npu.errors import ModelError

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


def test_no_more_windows_than_places_where_all_are_encoded() -> None:
    model = Model(says(words(12)))
    engine = Engine(model)
    with engine.open() as recording:
        windows = {n: window_of(recording, n) for n in range(PLACES + 5)}
        for window in windows.values():
            window.prefill([TOKENIZER.sot], [0]).result(LIMIT)
        with held(engine):
            works = [w.decode(partial(decoding, model, n, GREEDY)) for n, w in windows.items()]
        for work in works:
            result_of(work)
    assert max(map(len, model.steps)) == PLACES
    assert len(model.encoded) == len(windows)


def test_a_place_is_left_for_a_recording_that_has_none() -> None:
    model = Model(says(words(30)))
    engine = Engine(model)
    with engine.open() as long, engine.open() as short:
        asked: list[Work[Decoding]] = []

        def ask_when_full(session: FakeSession) -> None:
            if len(session.windows) == PLACES and not asked:
                with ThreadPoolExecutor(1) as other:
                    asked.append(other.submit(ask, short, 99).result())

        model.before_step = ask_when_full
        for work in [ask(long, number) for number in range(PLACES + 5)]:
            result_of(work)
        result_of(asked[0])
    with_it = [step for step in model.steps if 99 in step]
    assert len(with_it[0]) == PLACES + 1
    assert max(sum(n < 99 for n in step) for step in model.steps) == PLACES


def encoded_slowly(model: Model) -> list[int]:
    """How many steps there were before each window that is encoded."""
    before: list[int] = []

    def encode(window: int) -> None:
        before.append(len(model.steps))
        time.sleep(0.2)

    model.before_encode = encode
    return before


def test_steps_go_on_while_windows_are_encoded() -> None:
    model = Model(says(words(30)))
    before = encoded_slowly(model)
    engine = Engine(model)
    with engine.open() as recording:
        for work in [ask(recording, number) for number in range(3)]:
            result_of(work)
    # For half as long, in which there are several of these steps.
    assert (np.diff(before) > 2).all()


@pytest.mark.parametrize("priority", [0, 1])
def test_places_are_filled_before_steps_have_their_share(priority: int) -> None:
    """Where enough windows wait for all of them, unless live audio is under way."""
    model = Model(says(words(30)))
    before = encoded_slowly(model)
    engine = Engine(model, places=3)
    with engine.open(priority) as first, engine.open() as others:
        with held(engine):
            works = [ask(first, 0), *(ask(others, number) for number in (1, 2))]
        for work in works:
            result_of(work)
    taken = np.diff(before)
    assert ((taken > 2) if priority else (taken == 1)).all()


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
