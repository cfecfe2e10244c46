"""One way to transcribe some recordings, in a process of its own: what it took.

    python -m tools.engine.sides TASK

prints JSON for a task in JSON, which ``throughput`` makes.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any
from unittest import mock

from tools.bench.machine import Meter, peak_memory_mb
from whisper_npu import Transcriber, Transcription
from whisper_npu.decoding.batch import Batch

LANGUAGE = "en"
# Side -> the long recording's batch_size; only LOOP_BATCHES has it for the short ones as well.
LOOP, LOOP_BATCHES = "loop", "loop, batches"
AT_ONCE, AT_ONCE_BATCHES = "at once", "at once, batches"
BESIDE, BESIDE_BATCHES = "beside", "beside, batches"
WHOLE = (LOOP, LOOP_BATCHES, AT_ONCE, AT_ONCE_BATCHES)
DELAYS = (BESIDE, BESIDE_BATCHES)


@dataclass(frozen=True)
class Task:
    """What a side does. ``threads`` None are the product's own; ``pool`` are threads that each
    transcribe a recording."""

    side: str
    model: str
    precision: str
    short: Sequence[str]
    long: str
    batch_size: int
    pool: int
    threads: int | None = None


@dataclass(frozen=True)
class Found:
    """Wall seconds of it all; those of each phase; those of each short recording from the time that
    it was asked for, where one is at a time; those of the long one, where it is alone; tokens in
    the results; the mean number of windows in a step; peak memory in MiB; hashes of the results by
    recording; the CPU time of other processes.
    """

    seconds: float
    phases: dict[str, float]
    delays: list[float]
    long: float
    tokens: int
    windows: float
    peak_mb: float
    results: dict[str, str]
    foreign: float


class _Side:
    def __init__(self, task: Task) -> None:
        self._task = task
        self._transcriber = Transcriber(task.model, precision=task.precision, threads=task.threads)
        self._batch_size = task.batch_size if "batches" in task.side else None
        self._phases: defaultdict[str, float] = defaultdict(float)
        self._tokens = 0
        self._results: dict[str, str] = {}
        self._lock = threading.Lock()

    def _transcribe(self, path: str, batch_size: int | None) -> float:
        began = time.perf_counter()
        found = self._transcriber.transcribe(path, language=LANGUAGE, batch_size=batch_size)
        self._take(path, found)
        return time.perf_counter() - began

    def _take(self, path: str, found: Transcription) -> None:
        assert found.placement is not None
        said = [(segment.start, segment.end, segment.tokens) for segment in found.segments]
        with self._lock:
            for phase, seconds in found.placement.seconds.items():
                self._phases[phase] += seconds
            self._tokens += sum(len(segment.tokens) for segment in found.segments)
            self._results[path] = hashlib.sha256(repr(said).encode()).hexdigest()

    def run(self) -> Found:
        task = self._task
        # What is made with the first recording is not counted.
        self._transcribe(task.short[0] if task.short else task.long, None)
        self._phases.clear()
        self._tokens = 0
        self._results.clear()
        meter, began = Meter(), time.perf_counter()
        with _windows_of_steps() as windows:
            delays, long = self._all()
        seconds = time.perf_counter() - began
        return Found(
            seconds, dict(self._phases), delays, long, self._tokens, fmean(windows or [0]),
            peak_memory_mb(), self._results, meter.stop().foreign,
        )  # fmt: skip

    def _all(self) -> tuple[list[float], float]:
        """Transcribe all of it. Returns the seconds of short recordings, and of the long one."""
        task, delays, long = self._task, list[float](), 0.0
        if task.side in (LOOP, LOOP_BATCHES):
            delays = [self._transcribe(path, self._batch_size) for path in task.short]
            long = self._transcribe(task.long, self._batch_size)
        elif task.side in DELAYS:
            delays = self._beside()
        else:
            with ThreadPoolExecutor(task.pool) as pool:
                works = [pool.submit(self._transcribe, task.long, self._batch_size)]
                works += [pool.submit(self._transcribe, path, None) for path in task.short]
                for work in works:
                    work.result()
        return delays, long

    def _beside(self) -> list[float]:
        """Short recordings one after the other, as long as the long one is under way."""
        stream = self._transcriber.segments(
            self._task.long, language=LANGUAGE, batch_size=self._batch_size
        )
        ended = threading.Event()

        def long() -> None:
            try:
                with suppress(CancelledError):
                    for _ in stream:
                        pass
            finally:
                ended.set()

        thread = threading.Thread(target=long)
        thread.start()
        delays = []
        for path in self._task.short:
            seconds = self._transcribe(path, None)
            if ended.is_set():
                break
            delays.append(seconds)
        stream.close()
        thread.join()
        return delays


@contextmanager
def _windows_of_steps() -> Iterator[list[int]]:
    """How many windows there are in each step that is taken meanwhile."""
    windows: list[int] = []
    step = Batch.step

    def counted(batch: Batch) -> None:
        windows.append(len(batch.decodings))
        step(batch)

    with mock.patch.object(Batch, "step", counted):
        yield windows


def run(task: Task) -> Found:
    """Do it in this process."""
    return _Side(task).run()


def main(argument: str) -> None:
    """Print what is found, as a line of JSON."""
    task: dict[str, Any] = json.loads(argument)
    print(json.dumps(asdict(run(Task(**task)))))


if __name__ == "__main__":
    main(sys.argv[1])
