"""Whole transcriptions of real speech, each by a new process, runtimes by turns."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from tests.support.real.speech import RATE, minutes
from tests.support.real.word_errors import error_rate, normalize, word_errors
from tools.bench.client import WorkerError, WorkerRefusal
from tools.bench.conductor import PEAK, READY, Measured, Setting, calmest
from tools.bench.criteria import SPEECH_LIMITS, verdict
from tools.bench.machine import Load, Reading
from tools.bench.models import LANGUAGE
from tools.bench.registry import BY_DEFAULT, SEQUENTIAL, Spec
from tools.bench.report import Column, cell, ratio
from tools.bench.results import Results, Sample
from tools.markdown import markdown_table

TRANSCRIPTION, ERRORS = "transcription", "word errors"
COLUMNS = (
    Column(READY, "import and load, s", 1),
    Column(TRANSCRIPTION, "transcription, s", 1),
    Column(PEAK, "peak memory, MiB", 1),
    Column(ERRORS, "word errors, %", 1),
)
COMPARED = (TRANSCRIPTION, PEAK)


def measure(
    setting: Setting, specs: Sequence[Spec], length: float, rounds: int
) -> tuple[Results, dict[str, str]]:
    """Transcribe so many minutes of prompts; gives the versions of what ran as well.

    In each round another runtime begins. What a machine lacks, and what ends by itself, is left out
    from then on, and said. Interrupted, it gives what there is.
    """
    recording = minutes(LANGUAGE, length)
    words = normalize(recording.text, LANGUAGE)
    results, left = Results(), list(specs)
    versions: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "speech.wav")
        soundfile.write(path, np.rint(recording.samples() * 32767).astype("<i2"), RATE)
        try:
            for number in range(rounds):
                for spec in left[number % len(left) :] + left[: number % len(left)]:
                    try:
                        once = partial(_once, setting, spec, path, words, versions)
                        _measure(results, spec.name, number, once)
                    except (WorkerRefusal, WorkerError) as error:
                        _say(f"{spec.name} is left out: {error}")
                        left.remove(spec)
        except KeyboardInterrupt:
            _say("interrupted: what follows is of fewer rounds")
    return results, versions


def _measure(
    results: Results, name: str, number: int, once: Callable[[], tuple[Measured, Load]]
) -> None:
    taken = calmest(once, lambda load: _say(f"{name}: {load.why()}"))
    assert taken is not None
    values, load = taken
    _say(f"{name}: " + ", ".join(f"{part} {value:.4g}" for part, value in values.items()))
    for part, value in values.items():
        results.add(Sample(name, part, number, value, load.disturbed, load.to_dict()))


def _once(
    setting: Setting, spec: Spec, path: Path, words: list[str], versions: dict[str, str]
) -> tuple[Measured, Load]:
    """One process."""
    start = Reading.now()
    with setting.worker(spec, ", speech") as worker:
        versions[spec.name] = worker.ready()
        ready = time.perf_counter() - worker.started
        answer = worker.request(
            stage="speech", path=str(path), batch_size=spec.batch_size, at_least=0
        )
        cpu = worker.end()
    load = Reading.now().load_since(start, cpu)
    (seconds,) = answer["seconds"]
    errors = error_rate([word_errors(words, normalize(answer["result"], LANGUAGE))])
    return {
        READY: ready,
        TRANSCRIPTION: seconds,
        PEAK: answer["peak_mb"],
        ERRORS: 100 * errors,
    }, load


def table(results: Results) -> Iterator[str]:
    """Medians, and the ratios of time and memory to faster-whisper's int8 within rounds."""
    titles = [column.title for column in COLUMNS]
    titles += [f"{what} to {SEQUENTIAL}'s" for what in COMPARED]
    rows = [
        [
            name,
            *(cell(results.summary(name, column.stage), column) for column in COLUMNS),
            *(ratio(results.ratio(name, SEQUENTIAL, what)) for what in COMPARED),
        ]
        for name in results.runtimes
    ]
    yield from markdown_table(["", *titles], rows)


def verdicts(results: Results, model: str) -> Iterator[str]:
    """A line for each limit that can be judged by what was measured."""
    for limit in SPEECH_LIMITS[model]:
        for peer in limit.peers:
            found = results.ratio(BY_DEFAULT, peer, limit.stage)
            if found is not None:
                yield verdict(BY_DEFAULT, limit, found, peer)


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)
