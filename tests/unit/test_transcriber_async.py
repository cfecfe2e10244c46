"""Transcription for asyncio: many tasks, some of which are cancelled or stop listening."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import weakref
from typing import Any

import numpy as np
import pytest

from tests.support.cpu_library import cpu_home as cpu_home
from tests.support.waiting import LIMIT, wait_for
from tests.unit.transcriber_jobs import (
    GREEDY,
    no_file_is_left,
    no_thread_is_left,
    open_files,
    own_threads,
    sound,
)
from tests.unit.transcriber_jobs import compiled as compiled
from tests.unit.transcriber_jobs import spilled as spilled
from whisper_npu import Transcriber, Transcription
from whisper_npu.async_streams import AsyncSegmentStream
from whisper_npu.decoding.engine import PLACES
from whisper_npu.errors import AudioError, OptionError

# As many recordings are under way at once.
MOST = 2 * PLACES
SHORT = {**GREEDY, "sample_len": 16}
SIDE_BY_SIDE = {"batch_size": 2, "condition_on_previous_text": False}
JOBS: list[tuple[float, dict[str, Any]]] = [
    (1, {}),
    (1, {"beam_size": 3}),
    (2, {"temperature": (0.0, 0.6), "best_of": 2, "logprob_threshold": -0.1}),
    (2, {"word_timestamps": True}),
    (45, SIDE_BY_SIDE),
    (1, {"language": None}),
]


def arguments(number: int) -> tuple[np.ndarray, dict[str, Any]]:
    seconds, options = JOBS[number % len(JOBS)]
    return sound(seconds, number % len(JOBS)), {**SHORT, **options}


def alone(transcriber: Transcriber) -> list[Transcription]:
    found = []
    for number in range(len(JOBS)):
        audio, options = arguments(number)
        found.append(transcriber.transcribe(audio, **options))
    return found


async def transcribe(transcriber: Transcriber, number: int, priority: int = 0) -> Transcription:
    audio, options = arguments(number)
    return await transcriber.atranscribe(audio, priority=priority, **options)


def test_results_are_those_of_one_thread(compiled: Transcriber, spilled: None) -> None:
    """Of more tasks than recordings are under way."""
    expected = alone(compiled)
    no_thread_is_left()
    files, most = open_files(), 0

    async def count() -> None:
        nonlocal most
        while True:
            most = max(most, len(compiled._engine._recordings))
            await asyncio.sleep(0.001)

    async def run() -> list[Transcription]:
        watch = asyncio.create_task(count())
        found = await asyncio.gather(*(transcribe(compiled, n) for n in range(2 * MOST)))
        watch.cancel()
        return found

    found = asyncio.run(run())
    assert found == [expected[n % len(JOBS)] for n in range(2 * MOST)]
    assert all(r.placement is not None and r.placement.fallbacks == () for r in found)
    assert MOST // 2 < most <= MOST
    no_thread_is_left()
    no_file_is_left(files)


def test_segments_are_those_of_the_whole(compiled: Transcriber) -> None:
    audio, options = sound(70), {**GREEDY, "sample_len": 20}
    whole = compiled.transcribe(audio, **options)

    async def run() -> None:
        async with compiled.asegments(audio, **options) as stream:
            known = await stream.stream()
            assert (known.language, known.duration) == ("en", 70.0)
            assert [segment async for segment in stream] == list(whole.segments)
            assert await stream.result() == whole
        assert [segment async for segment in stream] == []

    asyncio.run(run())
    no_thread_is_left()


def test_tasks_that_are_cancelled_leave_the_others_alone(
    compiled: Transcriber, spilled: None
) -> None:
    expected = alone(compiled)
    no_thread_is_left()
    files, chance = open_files(), random.Random(1)
    n_cancelled = 0

    async def run() -> None:
        nonlocal n_cancelled

        async def cancel(task: asyncio.Task[Transcription], after: float) -> None:
            await asyncio.sleep(after)
            task.cancel()

        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(transcribe(compiled, n) for n in range(len(JOBS))))
        seconds = asyncio.get_running_loop().time() - began
        tasks = [asyncio.create_task(transcribe(compiled, n)) for n in range(48)]
        await asyncio.gather(*(cancel(task, chance.uniform(0, 3 * seconds)) for task in tasks[::3]))
        for number, task in enumerate(tasks):
            try:
                assert await task == expected[number % len(JOBS)]
            except asyncio.CancelledError:
                assert number % 3 == 0
                n_cancelled += 1
        assert await transcribe(compiled, 0) == expected[0]

    asyncio.run(run())
    assert n_cancelled > 4
    no_thread_is_left()
    no_file_is_left(files)


@pytest.mark.parametrize("how", ["aclose", "with", "break"])
def test_streams_that_are_left_let_others_begin(
    compiled: Transcriber, spilled: None, how: str
) -> None:
    audio, options = sound(65), {**SHORT, **SIDE_BY_SIDE}
    files = open_files()
    kept = []

    async def leave() -> None:
        stream = compiled.asegments(audio, **options)
        if how != "break":
            kept.append(stream)
        if how == "with":
            async with stream:
                await stream.__anext__()
            return
        async for _ in stream:
            break
        if how == "aclose":
            await stream.aclose()

    async def run() -> None:
        for _ in range(MOST + 2):
            await asyncio.wait_for(leave(), LIMIT)
        await asyncio.wait_for(transcribe(compiled, 0), LIMIT)

    gc.disable()
    try:
        asyncio.run(run())
        no_thread_is_left()
        no_file_is_left(files)
    finally:
        gc.enable()


def test_what_goes_wrong_is_raised(compiled: Transcriber, spilled: None) -> None:
    with pytest.raises(OptionError, match="beamsize"):
        compiled.asegments(sound(1), beamsize=2)
    files = open_files()

    async def run() -> None:
        kept = []
        for _ in range(MOST + 2):
            stream = compiled.asegments(np.full(100, np.nan, np.float32))
            kept.append(stream)
            with pytest.raises(AudioError, match="finite"):
                await asyncio.wait_for(stream.result(), LIMIT)
        with pytest.raises(OptionError):
            await compiled.atranscribe(sound(1), language="xx")
        await asyncio.wait_for(transcribe(compiled, 0), LIMIT)

    asyncio.run(run())
    no_thread_is_left()
    no_file_is_left(files)


def test_a_stream_that_was_closed_does_not_begin(compiled: Transcriber) -> None:
    async def run() -> None:
        stream = compiled.asegments(sound(1), **SHORT)
        async with stream:
            pass
        with pytest.raises(asyncio.CancelledError):
            await stream.result()
        assert [segment async for segment in stream] == []

    asyncio.run(run())
    assert own_threads() == []


def test_a_stream_is_closed_while_it_waits_for_its_turn(compiled: Transcriber) -> None:
    async def run() -> None:
        held = [compiled.asegments(sound(1), **SHORT) for _ in range(MOST)]
        for stream in held:
            await stream.stream()
        late = [compiled.asegments(sound(1), **SHORT) for _ in range(MOST)]
        waits = [asyncio.create_task(stream.result()) for stream in late]
        await asyncio.sleep(0.02)
        for stream in late + held:
            await stream.aclose()
        for wait in waits:
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(wait, LIMIT)
        # Nor do they keep their turns.
        await asyncio.wait_for(
            asyncio.gather(*(transcribe(compiled, 0) for _ in range(MOST + 1))), LIMIT
        )

    asyncio.run(run())
    no_thread_is_left()


def test_a_stream_is_closed_by_another_task(compiled: Transcriber) -> None:
    async def listen(stream: AsyncSegmentStream) -> int:
        return len([segment async for segment in stream])

    async def run() -> None:
        audio, options = sound(100), {**GREEDY, "sample_len": 60}
        stream = compiled.asegments(audio, **options)
        await stream.stream()
        listens = asyncio.create_task(listen(stream))
        await asyncio.sleep(0.01)
        await stream.aclose()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(listens, LIMIT)

    asyncio.run(run())
    no_thread_is_left()


def test_a_task_is_cancelled_while_its_audio_is_read(compiled: Transcriber) -> None:
    """Its thread does not wait for the engine, which is busy."""
    busy, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        busy.set()
        go_on.wait(2 * LIMIT)

    async def run() -> None:
        stream = compiled.asegments(sound(1), **SHORT)
        task = asyncio.create_task(stream.stream())
        while not own_threads().count("whisper-npu-recording_0"):
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(
            wait_for, lambda: "whisper-npu-recording_0" not in own_threads(), "the thread waits"
        )
        assert [segment async for segment in stream] == []

    with compiled._engine.open() as recording:
        holds = threading.Thread(target=recording.call, args=(hold,))
        holds.start()
        assert busy.wait(LIMIT)
        try:
            asyncio.run(run())
        finally:
            go_on.set()
            holds.join()
    no_thread_is_left()


def test_above_priority_0_none_waits_for_its_turn(compiled: Transcriber) -> None:
    expected = alone(compiled)

    async def run() -> None:
        held = [compiled.asegments(sound(1), **SHORT) for _ in range(MOST)]
        for stream in held:
            await stream.stream()
        plain = asyncio.create_task(transcribe(compiled, 1))
        urgent = await asyncio.wait_for(transcribe(compiled, 0, priority=1), LIMIT)
        assert urgent == expected[0]
        await asyncio.sleep(0.02)
        assert not plain.done()
        await held[0].aclose()
        assert await asyncio.wait_for(plain, LIMIT) == expected[1]
        for stream in held:
            await stream.aclose()

    asyncio.run(run())
    no_thread_is_left()


def test_event_loops_one_after_the_other_and_at_once(compiled: Transcriber) -> None:
    expected = alone(compiled)
    loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
    errors: list[BaseException] = []

    async def run() -> None:
        loops.add(asyncio.get_running_loop())
        # More than may begin, so that some wait.
        found = await asyncio.gather(*(transcribe(compiled, n % 2) for n in range(MOST + 4)))
        assert found == [expected[n % 2] for n in range(MOST + 4)]

    def begin() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            errors.append(error)

    begin()
    threads = [threading.Thread(target=begin) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    no_thread_is_left()
    gc.collect()
    assert len(loops) == 0
