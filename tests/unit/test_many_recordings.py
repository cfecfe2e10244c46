"""Very many recordings on one transcriber: results, memory and threads stay what they are."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest

from tests.support.cpu_library import cpu_home as cpu_home
from tests.unit.transcriber_jobs import (
    GREEDY,
    no_file_is_left,
    no_thread_is_left,
    open_files,
    resident_mib,
    sound,
)
from tests.unit.transcriber_jobs import compiled as compiled
from tests.unit.transcriber_jobs import spilled as spilled
from whisper_npu import Transcriber, Transcription
from whisper_npu.decoding import engine
from whisper_npu.decoding.batch import Batch

N_THREADS = 8
N_TASKS = 24
# Recordings of each thread, or as many tasks as they would do; and the MiB that memory may grow by
# after the first third of them. Few are done before all plans are there that are kept.
SIZES = [(12, 32), pytest.param((200, 16), marks=pytest.mark.long)]

# Each window once: what seeded weights say of times leads to many windows.
SHORT = {**GREEDY, "sample_len": 16, "without_timestamps": True}
SIDE_BY_SIDE = {"batch_size": 2, "condition_on_previous_text": False}
SAMPLED = {"temperature": (0.0, 0.6), "best_of": 2, "logprob_threshold": -0.1}
JOBS: list[tuple[float, int, dict[str, Any]]] = [
    (0.3, 1, {}),
    (1, 1, {}),
    (1, 1, {"word_timestamps": True, "without_timestamps": False}),
    (1, 1, {"beam_size": 2}),
    (1, 1, {"beam_size": 3, "word_timestamps": True}),
    (2, 1, SAMPLED),
    (2, 1, {**SAMPLED, "seed": 1}),
    (1, 1, {"language": None}),
    (1, 2, {"channel": "each"}),
    (35, 1, SIDE_BY_SIDE),
    (35, 1, {"sample_len": 2}),
    (1, 1, {"without_timestamps": False}),
]
# The short ones more often.
WEIGHTS = [4, 4, 2, 2, 1, 2, 2, 2, 1, 1, 1, 1]


def audio_of(number: int) -> np.ndarray:
    seconds, channels, _ = JOBS[number]
    return sound(seconds, number, channels)


def options_of(number: int) -> dict[str, Any]:
    return {**SHORT, **JOBS[number][2]}


def of_one_thread(transcriber: Transcriber) -> list[Transcription]:
    found = [
        transcriber.transcribe(audio_of(number), **options_of(number))
        for number in range(len(JOBS))
    ]
    assert len({result.text for result in found}) > len(JOBS) // 2
    return found


class Memory:
    """What is resident after the first third of all, and at the end."""

    def __init__(self, count: int) -> None:
        self._count, self._done, self._before = count, 0, 0.0
        self._lock = threading.Lock()

    def done(self) -> None:
        """One more."""
        with self._lock:
            self._done += 1
            if self._done == self._count // 3:
                self._before = resident_mib()

    def is_flat(self, more_mib: float) -> None:
        assert self._done == self._count
        gc.collect()
        assert resident_mib() - self._before < more_mib


def is_as_expected(found: Transcription, expected: Transcription) -> None:
    assert found == expected
    assert found.placement is not None
    assert found.placement.fallbacks == ()


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How many windows steps have had. A window is encoded with each of them: a small model takes
    longer for that than to decode it, which would be alone."""
    monkeypatch.setattr(engine, "_STEPS_SHARE", 0.0)
    found: Counter[int] = Counter()
    step = Batch.step

    def count(batch: Batch) -> None:
        found[len(batch.decodings)] += 1
        step(batch)

    monkeypatch.setattr(Batch, "step", count)
    return found


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_threads(
    compiled: Transcriber, spilled: None, sizes: Counter[int], size: tuple[int, int]
) -> None:
    count, more_mib = size
    expected = of_one_thread(compiled)
    no_thread_is_left()
    files, memory = open_files(), Memory(N_THREADS * count)
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        try:
            for number in chance.choices(range(len(JOBS)), WEIGHTS, k=count):
                found = compiled.transcribe(audio_of(number), **options_of(number))
                is_as_expected(found, expected[number])
                memory.done()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(N_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sizes.total() - sizes[1] > sizes.total() // 4
    assert max(sizes) >= 4
    memory.is_flat(more_mib)
    no_thread_is_left()
    no_file_is_left(files)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_tasks_of_which_a_third_is_cancelled(
    compiled: Transcriber, spilled: None, sizes: Counter[int], size: tuple[int, int]
) -> None:
    count, more_mib = size
    expected = of_one_thread(compiled)
    no_thread_is_left()
    files, memory = open_files(), Memory(N_THREADS * count)
    chance = random.Random(count)
    # Taken by the next of the workers, which are more than recordings may be under way.
    numbers = iter(chance.choices(range(len(JOBS)), WEIGHTS, k=N_THREADS * count))
    n_cancelled = 0

    async def work() -> None:
        nonlocal n_cancelled
        for number in numbers:
            task = asyncio.create_task(compiled.atranscribe(audio_of(number), **options_of(number)))
            if chance.random() < 1 / 3:
                await asyncio.sleep(chance.choice([0, 0.01, 0.1, 0.5]) * chance.random())
                task.cancel()
            try:
                is_as_expected(await task, expected[number])
            except asyncio.CancelledError:
                n_cancelled += 1
            memory.done()

    async def run() -> None:
        await asyncio.gather(*(work() for _ in range(N_TASKS)))

    asyncio.run(run())
    assert n_cancelled > N_THREADS * count // 10
    assert sizes.total() - sizes[1] > sizes.total() // 4
    assert max(sizes) >= 4
    memory.is_flat(more_mib)
    no_thread_is_left()
    no_file_is_left(files)
