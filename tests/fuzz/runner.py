"""Runs the inputs of a target in processes of their own, under limits, and keeps what fails."""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import select
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Protocol


class Share(NamedTuple):
    """What a target gets: seconds in each run of the tests, and inputs of a million."""

    seconds: float
    runs: int


TARGETS = {
    "audio": Share(16, 500_000),
    "models": Share(10, 40_000),
    "readers": Share(7, 160_000),
    "options": Share(7, 90_000),
    "records": Share(5, 80_000),
    "hub_answers": Share(6, 30_000),
    "file_types": Share(3, 10_000),
    "npu_files": Share(3, 90_000),
}

# Inputs of a process: libraries that lose memory do not get far.
_BATCH = 5_000
# Bytes that a process may have beyond what it has when it begins, and those of a file.
_MEMORY = 1 << 30
_FILE_SIZE = 1 << 28
# Inputs that are kept of those that fail in the same way.
_KEPT = 3
# Processor time is measured, as a busy machine is no fault of an input; but who waits for ever uses
# none.
_WAIT_FACTOR = 20


class Target(Protocol):
    """A module of tests.fuzz.targets."""

    #: Seconds of processor time that an input may take.
    SECONDS: float

    def mutate(self, chance: Random) -> bytes:
        """An input: mostly one of the target's seeds, damaged."""

    def check(self, data: bytes, folder: Path) -> str:
        """Use an input and say in a word what came of it; what must not be raised comes out.

        ``folder`` is the same for all inputs of a process.
        """


def load_target(name: str) -> Target:
    """The target of this name."""
    module: Any = import_module(f"tests.fuzz.targets.{name}")
    target: Target = module
    return target


@dataclass
class Report:
    """What came of the inputs of a run. ``failures`` has their numbers by what went wrong."""

    target: str
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: dict[str, list[int]] = field(default_factory=dict)
    slowest: tuple[float, int] = (0.0, 0)
    seconds: float = 0.0

    def __str__(self) -> str:
        runs = sum(self.outcomes.values())
        named = ", ".join(f"{name} {count:,}" for name, count in sorted(self.outcomes.items()))
        lines = [
            f"{self.target}: {runs:,} inputs in {self.seconds:.0f} s ({named}), slowest "
            f"{self.slowest[0]:.2f} s (number {self.slowest[1]}), {len(self.failures)} faults"
        ]
        lines += [f"{len(found)} x {kind}: {found[:5]}" for kind, found in self.failures.items()]
        return "\n".join(lines)


def run(
    target: Target,
    runs: int,
    *,
    first: int = 0,
    seed: int = 0,
    seconds: float = 1e9,
    keep: Path,
    make: Callable[[int], bytes] | None = None,
) -> Report:
    """Run inputs ``first`` to ``first + runs - 1``; those of ``make`` in the place of the target's.

    What fails is written into ``keep``.
    """
    report = Report(target.__name__.rpartition(".")[2])  # type: ignore[attr-defined]
    started = time.monotonic()
    end = started + seconds
    make = make or (lambda number: target.mutate(Random(f"{seed}/{number}")))
    number, last = first, first + runs
    while number < last and time.monotonic() < end:
        batch = range(number, min(number + _BATCH, last))
        for outcome, took, failure in _process(target, make, batch, end):
            report.outcomes[outcome] += 1
            report.slowest = max(report.slowest, (took, number))
            if failure:
                found = report.failures.setdefault(_kind(failure), [])
                found.append(number)
                if len(found) <= _KEPT:
                    keep.mkdir(parents=True, exist_ok=True)
                    kept = keep / f"{report.target}-{seed}-{number}"
                    kept.write_bytes(make(number))
                if len(found) == 1:
                    print(f"{kept}:\n{failure}", flush=True)
            number += 1
    report.seconds = time.monotonic() - started
    return report


def _kind(failure: str) -> str:
    """What inputs that fail in the same way have in common: the last place, and the exception."""
    lines = failure.strip().splitlines()
    places = [line.strip() for line in lines if line.lstrip().startswith("File ")]
    return f"{places[-1] if places else ''} {lines[-1].split(':')[0]}"


def _process(
    target: Target, make: Callable[[int], bytes], numbers: range, end: float
) -> Iterator[tuple[str, float, str]]:
    """Outcome, seconds and failure of each input, until one ends the process or time is up."""
    # A file system in memory: a million small files are no load for a disk.
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _work(target, make, numbers, end, folder, writer)
    os.close(writer)
    try:
        rest = b""
        while True:
            ready, _, _ = select.select([reader], [], [], _WAIT_FACTOR * target.SECONDS)
            data = os.read(reader, 1 << 16) if ready else b""
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                outcome, took, failure = json.loads(line)
                yield outcome, took, failure
            if not data:
                break
        if not ready:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if status:
            said = (folder / "stderr").read_text(errors="replace")[-4000:]
            how = "" if ready else f"no end within {_WAIT_FACTOR * target.SECONDS:.0f} s: "
            yield "crashed", 0.0, f"{said}\n{how}the process ended with status {status}"
    finally:
        os.close(reader)
        shutil.rmtree(folder, ignore_errors=True)


class TooSlow(BaseException):
    """Not an Exception, so that nothing on the way handles it."""


def _work(
    target: Target,
    make: Callable[[int], bytes],
    numbers: range,
    end: float,
    folder: Path,
    pipe: int,
) -> None:
    """Run inputs in this process, which ends."""

    def too_slow(*_: object) -> None:
        raise TooSlow(f"more than {target.SECONDS} s of processor time")

    stderr = os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(0, 1)
    os.dup2(stderr, 2)
    faulthandler.enable()
    limit(resource.RLIMIT_AS, _memory_used() + _MEMORY)
    limit(resource.RLIMIT_FSIZE, _FILE_SIZE)
    limit(resource.RLIMIT_CORE, 0)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, too_slow)
    # Warnings are for users; those of NumPy about its numbers are not, and are faults.
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", RuntimeWarning)
    work = folder / "work"
    work.mkdir()
    try:
        for number in numbers:
            data, failure, outcome = make(number), "", "failed"
            started = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, target.SECONDS)
            try:
                outcome = target.check(data, work)
            except BaseException:  # TooSlow, and panics of Rust libraries, are no Exceptions
                failure = traceback.format_exc()
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            took = time.process_time() - started
            os.write(pipe, json.dumps([outcome, took, failure[-20_000:]]).encode() + b"\n")
            if time.monotonic() > end:
                break
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def limit(what: int, value: int) -> None:
    """Set a limit of this process for good."""
    resource.setrlimit(what, (value, value))


def _memory_used() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()
