"""A runtime in a process of its own, which is told by lines of JSON what to run.

    python -m tools.bench.worker '{"module": ..., "model": ..., "threads": ..., ...}'

answers ``{"ready": VERSION}`` once the model is loaded, and then to every request
``{"stage": NAME, "n_tokens": N, ...}`` with the seconds of each call, the load of the machine
meanwhile, and the result: tokens, their number of a file, the text of speech. Whatever a library
prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from tools.bench.machine import Meter, peak_memory_mb
from tools.bench.runtime import BEAM_SIZE, LANGUAGE, RATE, Runtime, Unsupported

WINDOW_SAMPLES, WINDOW_FRAMES = 30 * RATE, 3000
BATCH = 8
# Short stages are run over and over for so long, and the median of the calls counts.
AT_LEAST_SECONDS = 0.4
MOST_CALLS = 20


class Material:
    """What is transcribed. It is read when it is needed, so that it does not count as memory of
    runtimes that do not."""

    def __init__(self, folder: Path, n_mels: int) -> None:
        self._folder, self._n_mels = folder, n_mels
        self.recording = folder / "recording.wav"

    def windows(self, count: int) -> list[array[float]]:
        """The samples of windows of 30 s."""
        with (self._folder / "windows.f32").open("rb") as file:
            return [_floats(file, WINDOW_SAMPLES) for _ in range(count)]

    def features(self, runtime: Runtime) -> Any:
        """The features of the first window, the same for every runtime."""
        with (self._folder / f"features-{self._n_mels}.f32").open("rb") as file:
            return runtime.features(_floats(file, self._n_mels * WINDOW_FRAMES), self._n_mels)


def _floats(file: IO[bytes], count: int) -> array[float]:
    values = array("f")
    values.fromfile(file, count)
    return values


# Makes what a timed call is given, and the call: its result is what was decoded, if anything.
Stage = tuple[Callable[[], Any], Callable[[Any], Any]]


def stage(name: str, runtime: Runtime, material: Material, request: dict[str, Any]) -> Stage:
    """Raises ValueError for a stage that does not exist."""
    n_tokens: int = request.get("n_tokens", 0)

    def features() -> Any:
        return material.features(runtime)

    def states() -> Any:
        # New for every call: a runtime may keep what it computed from these very states.
        return runtime.encode([features()])

    stages: dict[str, Stage] = {
        "mel": (partial(material.windows, 1), lambda made: runtime.mel(made[0])),
        "encoder": (features, lambda made: runtime.encode([made])),
        "decode": (states, lambda made: runtime.decode(made, n_tokens)),
        "beam": (states, lambda made: runtime.decode(made, n_tokens, BEAM_SIZE)),
        "window": (partial(material.windows, 1), lambda made: runtime.window(made[0], n_tokens)),
        "batch": (partial(material.windows, BATCH), lambda made: runtime.batch(made, n_tokens)),
        "speech": (
            lambda: Path(request["path"]),
            lambda made: runtime.transcribe(made, LANGUAGE, request["batch_size"]),
        ),
        "file": (
            lambda: runtime.prepare_file(Path(request.get("path", material.recording))),
            lambda made: runtime.file(made, n_tokens, request["batch_size"]),
        ),
    }
    if name not in stages:
        raise ValueError(f"there is no stage {name!r}")
    return stages[name]


def run(runtime: Runtime, material: Material, request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request."""
    name = request["stage"]
    prepare, call = stage(name, runtime, material, request)
    until = time.perf_counter() + request.get("at_least", AT_LEAST_SECONDS)
    seconds: list[float] = []
    loads = []
    while not seconds or (time.perf_counter() < until and len(seconds) < MOST_CALLS):
        made = prepare()
        meter = Meter()
        start = time.perf_counter()
        result = call(made)
        seconds.append(runtime.seconds_of(name, time.perf_counter() - start))
        loads.append(meter.stop().to_dict())
        del made
    return {
        "seconds": seconds,
        "loads": loads,
        "result": result if name not in ("mel", "encoder") else None,
        "peak_mb": peak_memory_mb(),
    }


def requests() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def main() -> None:
    task = json.loads(sys.argv[1])
    os.sched_setaffinity(0, task["cpus"])
    answers = own_stdout()
    try:
        load = import_module(f"tools.bench.{task['module']}").load
        runtime: Runtime = load(Path(task["model"]), task["threads"], **task["options"])
    except Unsupported as error:
        answer(answers, {"unsupported": str(error)})
        return
    answer(answers, {"ready": runtime.version()})
    material = Material(Path(task["audio"]), task["n_mels"])
    for request in requests():
        try:
            answer(answers, run(runtime, material, request))
        except Unsupported as error:
            answer(answers, {"unsupported": str(error)})


def own_stdout() -> IO[str]:
    """Where answers go; from now on everything else that is printed goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def answer(answers: IO[str], content: dict[str, Any]) -> None:
    answers.write(json.dumps(content) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
