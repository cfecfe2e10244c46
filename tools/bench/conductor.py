"""Lets the runtimes take turns, and measures again what was disturbed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tools.bench.client import Worker, WorkerRefusal, command, variables
from tools.bench.environment import Environment
from tools.bench.machine import Load, Reading
from tools.bench.registry import BATCH, Spec
from tools.bench.results import Results, Sample

# Of one worker, over and over; and of a new process each time, as more than one value.
WARM_STAGES = ("mel", "encoder", "decode", "beam", "window", "batch", "file")
COLD = "cold"
READY, FIRST_TEXT, PEAK = "ready", "first text", "peak memory"
STAGES = (*WARM_STAGES, COLD)
# Too long to be run when nothing counts.
NOT_REHEARSED = ("file",)
FILE_WINDOWS = 20  # of the recording of models.py

ATTEMPTS = 3
PAUSE_SECONDS = 1.0  # before what was disturbed is measured again


@dataclass(frozen=True)
class Setting:
    """What is the same for all runtimes."""

    environment: Environment
    models: Path
    n_mels: int
    cpus: list[int]
    n_tokens: int

    @property
    def threads(self) -> int:
        return len(self.cpus)

    def worker(self, spec: Spec, log: str = "") -> Worker:
        task = {
            "module": spec.module,
            "model": str(self.models / spec.model),
            "audio": str(self.environment.audio),
            "n_mels": self.n_mels,
            "threads": self.threads,
            "cpus": self.cpus,
            "options": dict(spec.options),
        }
        path = self.environment.logs / f"{spec.name}{log}.log"
        own = {**self.environment.variables, **spec.environment}
        environment = variables(self.threads, own)
        return Worker(command(self.environment.python, task), environment, path)


Measured = dict[str, float]  # stage or part of one -> seconds, or MiB


class Conductor:
    """Runs all runtimes; a context manager that ends their processes."""

    def __init__(self, setting: Setting, specs: Sequence[Spec]) -> None:
        self._setting = setting
        self._specs = {spec.name: spec for spec in specs}
        self._workers: dict[str, Worker] = {}
        self._refused: set[tuple[str, str]] = set()
        self._stack = ExitStack()
        self._file_tokens: dict[str, int] = {}
        self.versions: dict[str, str] = {}
        self.results = Results()

    def __enter__(self) -> Conductor:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def names(self) -> list[str]:
        """The runtimes that could be started."""
        return list(self._workers)

    def start(self) -> None:
        """Start all workers, one after the other. What a checkout lacks is left out, and said."""
        for name, spec in self._specs.items():
            worker = self._stack.enter_context(self._setting.worker(spec))
            try:
                self.versions[name] = worker.ready()
            except WorkerRefusal as refusal:
                _say(f"{name} is left out: {refusal}")
                continue
            worker.pause()
            self._workers[name] = worker

    def rehearse(self, stages: Sequence[str]) -> list[str]:
        """Run every stage once, uncounted. Returns what is wrong with the tokens, if anything."""
        tokens: dict[str, dict[str, Any]] = {}
        for stage in stages:
            if stage == COLD or stage in NOT_REHEARSED:
                continue
            for name in self._workers:
                answer = self._ask(name, stage, at_least=0)
                if answer is not None and answer["result"] is not None:
                    tokens.setdefault(stage, {})[name] = answer["result"]
        full = [name for name in self._workers if self._specs[name].full]
        return differences(tokens, full, self._setting.n_tokens)

    def play(self, stages: Sequence[str], rounds: int) -> None:
        """Measure all stages so many times. The runtimes take turns in each stage, and in each
        round another one begins."""
        for number in range(rounds):
            names = self.names
            start = number % len(names)
            for stage in stages:
                _say(f"round {number + 1} of {rounds}: {stage}")
                for name in (*names[start:], *names[:start]):
                    if (name, stage) not in self._refused:
                        self._measure(name, stage, number)

    def unequal_files(self) -> list[str]:
        """The runtimes that did not decode every window of the file, as lines of text."""
        wanted = FILE_WINDOWS * self._setting.n_tokens
        return [
            f"{name}: file: {found} tokens, not {wanted}"
            for name, found in self._file_tokens.items()
            if found != wanted
        ]

    def _measure(self, name: str, stage: str, number: int) -> None:
        take = self._cold if stage == COLD else self._warm
        taken = calmest(lambda: take(name, stage), lambda load: _say(f"{name}: {load.why()}"))
        if taken is None:
            return
        values, load = taken
        _say(f"{name}: " + ", ".join(f"{part} {value:.4g}" for part, value in values.items()))
        for part, value in values.items():
            sample = Sample(name, part, number, value, load.disturbed, load.to_dict())
            self.results.add(sample)

    def _ask(self, name: str, stage: str, **more: Any) -> dict[str, Any] | None:
        """None if the runtime has no such stage."""
        with self._awake(name) as worker:
            try:
                return worker.request(
                    stage=stage, n_tokens=self._setting.n_tokens, batch_size=BATCH, **more
                )
            except WorkerRefusal as refusal:
                self._refused.add((name, stage))
                _say(f"{name}: {refusal}")
                return None

    @contextmanager
    def _awake(self, name: str) -> Iterator[Worker]:
        worker = self._workers[name]
        worker.resume()
        try:
            yield worker
        finally:
            worker.pause()

    def _warm(self, name: str, stage: str) -> tuple[Measured, Load] | None:
        answer = self._ask(name, stage)
        if answer is None:
            return None
        if stage == "file":
            self._file_tokens[name] = answer["result"]
        loads = [Load(**load) for load in answer["loads"]]
        return {stage: median(answer["seconds"])}, Load.total(loads)

    def _cold(self, name: str, stage: str) -> tuple[Measured, Load]:
        """A process from its start to the text of its first window, and its memory."""
        start = Reading.now()
        with self._setting.worker(self._specs[name], ", cold") as worker:
            worker.send(stage="window", n_tokens=self._setting.n_tokens, at_least=0)
            worker.ready()
            ready = time.perf_counter() - worker.started
            answer = worker.receive()
            text = time.perf_counter() - worker.started
            cpu = worker.end()
        load = Reading.now().load_since(start, cpu)
        return {READY: ready, FIRST_TEXT: text, PEAK: answer["peak_mb"]}, load


def calmest(
    measure: Callable[[], tuple[Measured, Load] | None],
    report: Callable[[Load], None],
    attempts: int = ATTEMPTS,
) -> tuple[Measured, Load] | None:
    """The first undisturbed measurement, or of all attempts the least disturbed one."""
    taken: list[tuple[Measured, Load]] = []
    while len(taken) < attempts:
        if taken:
            time.sleep(PAUSE_SECONDS)
        result = measure()
        if result is None:
            return None
        taken.append(result)
        if not result[1].disturbed:
            return result
        report(result[1])
    return min(taken, key=lambda result: result[1].foreign / result[1].wall)


def differences(
    tokens: dict[str, dict[str, list[list[int]]]], full: Sequence[str], n_tokens: int
) -> list[str]:
    """What shows that runtimes did not do the same work, as lines of text.

    ``tokens`` are those of every window by stage and runtime. All must be ``n_tokens`` long; those
    of the runtimes in ``full`` must be the same where all decode the same features.
    """
    found = []
    for stage, by_name in tokens.items():
        for name, windows in by_name.items():
            lengths = sorted({len(window) for window in windows})
            if lengths != [n_tokens]:
                found.append(f"{name}: {stage}: {lengths} tokens in a window, not {n_tokens}")
    decoded = {name: t[0] for name, t in tokens.get("decode", {}).items() if name in full}
    reference = next(iter(decoded.items()), None)
    for name, own in decoded.items():
        if reference is not None and own != reference[1]:
            pairs = zip(own, reference[1], strict=False)
            same = next((i for i, (a, b) in enumerate(pairs) if a != b), len(own))
            found.append(f"{name}: token {same} is another than that of {reference[0]}")
    return found


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)
