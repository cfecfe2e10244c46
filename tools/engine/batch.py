"""A step of several windows, and the least that it could take on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from tools.engine.floors import Multiplier, Reader, Work, work_of
from tools.markdown import markdown_table
from tools.measuring import by_turns
from whisper_npu import Transcriber, load_audio
from whisper_npu.audio import N_SAMPLES
from whisper_npu.audio.features import compute_log_mel
from whisper_npu.decoding.batch import Batch
from whisper_npu.decoding.options import DecodingOptions
from whisper_npu.decoding.task import Decoding
from whisper_npu.ops.arrays import F32, I16
from whisper_npu.runtime.workers import kernel_threads

SIZES = (1, 2, 4, 8)
# Tokens of the prompt; steps that are not measured, and that are.
PROMPT, WARM, STEPS = 44, 4, 24
POSITION = PROMPT + WARM + STEPS // 2
_ENGINE_STEPS = 60
# What is told of all times: the tenth is little disturbed by other work of the machine.
QUANTILES = {"Medians": 0.5, "The fastest tenth": 0.1}


@dataclass(frozen=True)
class Step:
    """Seconds of a step of some windows: of the network, of the choice among its logits, and of
    the engine's, with the rules of decoding and the search."""

    windows: int
    network: float
    choice: float
    engine: float
    read: float
    work: Work

    @property
    def seconds(self) -> float:
        return self.network + self.choice


@dataclass(frozen=True)
class Report:
    """Of steps, and seconds of a multiply-add; ``what`` says which of all that were measured."""

    what: str
    steps: tuple[Step, ...]
    multiply_add: float
    precision: str
    threads: int

    def floor(self, step: Step) -> tuple[float, str]:
        """Seconds, and by what: memory or products."""
        memory, sums = step.read * step.work.nbytes, self.multiply_add * step.work.multiply_adds
        return max((memory, "memory"), (sums, "products"))


class _Windows:
    """Windows of speech whose states are known."""

    def __init__(self, transcriber: Transcriber, audio: Path, count: int) -> None:
        # The transcriber has no public door to the phases.
        self.model, self.tokenizer = transcriber._model, transcriber._tokenizer
        samples: F32 = np.resize(load_audio(str(audio)), count * N_SAMPLES)
        self.features = [self._features(part) for part in samples.reshape(count, N_SAMPLES)]
        # A window is known by where its states are in memory.
        self.states = [self.model.encode(features)[0] for features in self.features]
        dims = self.model.dims
        self.model._decoder.reserve(count, 1)
        self._prompts = np.arange(count * PROMPT).reshape(count, PROMPT) * 7919 % dims.n_vocab
        self._options = DecodingOptions(language="en" if self.tokenizer.is_multilingual else None)

    def _features(self, samples: F32) -> F32 | I16:
        spectrum = compute_log_mel(
            [samples], self.model.dims.n_mels, self.model.log_mel, self.model.precision
        )
        with spectrum:
            return spectrum.window(0)[None, :, : self.model.dims.n_frames]

    def steps(self, n: int) -> tuple[list[float], list[float]]:
        """Seconds of steps of the first windows, and of the choices after them."""
        session = self.model.decoder(self.states[:n], 1)
        logits = session.prefill(self._prompts[:n], [PROMPT - 1])[:, -1]
        tokens = logits.argmax(-1)
        network, choice = [], []
        for _ in range(WARM + STEPS):
            began = time.perf_counter()
            logits = session.step(tokens)
            stepped = time.perf_counter()
            tokens = session.likeliest(logits, 1)[0][:, 0].copy()
            network.append(stepped - began)
            choice.append(time.perf_counter() - stepped)
        return network[WARM:], choice[WARM:]

    def engine_steps(self, n: int) -> list[float]:
        """Seconds of steps of a batch, as long as none of its windows has ended."""
        session = self.model.decoder(self.states[:n], 1)
        decodings = [
            Decoding(
                self.tokenizer, self.model.dims, self._options, [], 0, session.probabilities, None
            )
            for _ in range(n)
        ]
        batch, found = Batch(), list[float]()
        batch.begin(session, decodings)
        while len(batch.decodings) == n and len(found) < _ENGINE_STEPS:
            began = time.perf_counter()
            batch.step()
            found.append(time.perf_counter() - began)
        # The first may make plans, and the last leaves windows behind.
        return found[1:-1] or found


def measure(
    transcriber: Transcriber, audio: Path, rounds: int, sizes: Sequence[int] = SIZES
) -> list[Report]:
    """Steps of some sizes, reads of as many bytes and large products by turns; a report for each of
    ``QUANTILES``."""
    windows = _Windows(transcriber, audio, max(sizes))
    works = {}
    for n in sizes:
        windows.steps(n)
        windows.engine_steps(n)
        works[n] = work_of(windows.model, n, POSITION)
    actions: dict[str, Callable[[], list[list[float]]]] = {}

    def of_steps(n: int) -> list[list[float]]:
        return [*windows.steps(n), windows.engine_steps(n)]

    def of_reads(reader: Reader) -> list[list[float]]:
        return [[reader()]]

    multiplier = Multiplier(windows.model, windows.features[0])
    for n in sizes:
        actions[f"{n}"] = partial(of_steps, n)
        actions[f"read {n}"] = partial(of_reads, Reader(works[n].nbytes))
    actions["products"] = lambda: [[multiplier()]]
    found = by_turns(actions, rounds)

    def report(what: str, share: float) -> Report:
        def of(name: str, part: int = 0) -> float:
            values = list(chain.from_iterable(each[part] for each in found[name]))
            return float(np.quantile(values, share))

        steps = [
            Step(n, of(f"{n}"), of(f"{n}", 1), of(f"{n}", 2), of(f"read {n}"), works[n])
            for n in sizes
        ]
        precision = windows.model.precision
        return Report(what, tuple(steps), of("products"), precision, kernel_threads())

    return [report(what, share) for what, share in QUANTILES.items()]


def lines(reports: Sequence[Report]) -> Iterator[str]:
    """The reports as text."""
    first = reports[0]
    yield (
        f"{first.precision}, {first.threads} threads; positions around {POSITION}. The floor is "
        "the larger of: bytes that a step reads at least once, at the rate at which a block of as "
        "many bytes is read again and again; multiply-adds at the rate of the fastest product of "
        "the encoder."
    )
    for report in reports:
        yield ""
        yield (
            f"{report.what} (that product: {1e-9 / report.multiply_add:.0f} billion multiply-adds "
            "a second):"
        )
        yield ""
        yield from _table(report)


def _table(report: Report) -> Iterator[str]:
    titles = (
        "windows", "step, ms", "choice, ms", "a window, ms", "times one window's",
        "with rules and search, ms", "weights, cross, own, MB", "GB/s",
        "million multiply-adds", "floor, ms", "by", "times the floor",
    )  # fmt: skip
    first = report.steps[0]
    rows = []
    for step in report.steps:
        floor, by = report.floor(step)
        work = step.work
        read = " + ".join(f"{1e-6 * nbytes:.1f}" for nbytes in (work.weights, work.cross, work.own))
        share = step.seconds / step.windows / (first.seconds / first.windows)
        rows.append(
            [
                f"{step.windows}",
                f"{1e3 * step.network:.2f}",
                f"{1e3 * step.choice:.3f}",
                f"{1e3 * step.seconds / step.windows:.3f}",
                f"{share:.2f}",
                f"{1e3 * step.engine:.2f}",
                read,
                f"{1e-9 / step.read:.1f}",
                f"{1e-6 * work.multiply_adds:.1f}",
                f"{1e3 * floor:.2f}",
                by,
                f"{step.seconds / floor:.2f}",
            ]
        )
    yield from markdown_table(titles, rows)
