"""Any mixture of CPU kernels and NumPy computes the same bits, and one step off would be seen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import Recipe, checkpoint
from tests.support.signals import chirp, noise
from tools import bits
from whisper_npu.backends.cpu.backend import CpuBackend, usable_kernels
from whisper_npu.backends.cpu.build import find_build
from whisper_npu.backends.cpu.library import load_library
from whisper_npu.backends.numpy.fast import FastNumPy
from whisper_npu.backends.numpy.specification import Specification
from whisper_npu.model.builders import build_choice
from whisper_npu.model.graph import Graph
from whisper_npu.runtime.backend import Backend, Bound, Offer, Refusal, Step
from whisper_npu.runtime.machine import Machine
from whisper_npu.runtime.model import phase_graphs
from whisper_npu.runtime.usage import Usage
from whisper_npu.runtime.workers import find_blas, use_threads

MODEL = checkpoint(Recipe("nano"))
GRAPHS = [*phase_graphs(MODEL.dims, "int8"), build_choice(MODEL.dims.n_vocab, 1, 1, "int8")]
RECORDINGS = [noise(16000 * 4), chirp(9), noise(16000 * 20, seed=1, level=0.01)]
PROMPT = [1, 2, 3]
# Of each setting two mixtures, drawn by these.
SETTINGS = [(threads, batch) for threads in (1, 2, 7) for batch in (1, 3)]
DRAWN = np.random.default_rng(0).integers(2**32, size=(len(SETTINGS), 2)).tolist()
# What no kernel computes: NumPy copies.
COPIES = {"transpose", "select_rows"}


@pytest.fixture(scope="module")
def expected() -> Iterator[str]:
    """The digest of the specification alone; meanwhile few tokens are decoded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bits, "LONGEST", 4)
        yield digest(Machine((Specification(),), usage=Usage(precision="int8")))


@pytest.fixture(autouse=True)
def _threads_as_before(cpu_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("whisper_npu.runtime.workers._Process.asked", None)
    build, blas = find_build(), find_blas()
    assert build is not None
    library = load_library(build.path)
    before, of_blas = library.threads, None if blas is None else blas.threads
    yield
    library.threads = before
    if blas is not None:
        blas.threads = of_blas


def digest(on: Machine, batch: int = 1, recordings: Sequence[np.ndarray] = RECORDINGS) -> str:
    """Of features, states, all logits, tokens and their log-probabilities."""
    return bits.digest(MODEL, on, recordings, PROMPT, batch)


def kernels(usage: Usage) -> CpuBackend:
    usable = usable_kernels()
    assert not isinstance(usable, str), usable
    return CpuBackend(usable, usage)


def mixture(number: int) -> Machine:
    """Kernels for about half of the ops; of the others fast NumPy has about half of its own."""
    usage = Usage(precision="int8")
    drawn = bits.Mixed(kernels(usage), number), bits.Mixed(FastNumPy(), number + 1)
    return Machine((*drawn, Specification()), usage=usage)


@pytest.mark.parametrize("setting", range(len(SETTINGS)))
def test_bits_are_the_same_whatever_runs_which_op(setting: int, expected: str) -> None:
    threads, batch = SETTINGS[setting]
    use_threads(threads)
    machines = {name: bits.machine(name) for name in ("cpu", "numpy")}
    machines |= {f"mixture {number}": mixture(number) for number in DRAWN[setting]}
    for name, machine in machines.items():
        assert digest(machine, batch) == expected, f"{name}, {threads} threads, batches of {batch}"


def test_mixtures_have_every_kind_of_op_on_kernels_and_on_numpy() -> None:
    found: dict[str, set[str]] = defaultdict(set)
    for number in np.ravel(DRAWN):
        machine = mixture(number)
        here = set()
        for graph in GRAPHS:
            for region in machine.choose(graph):
                here.add(region.offer.backend)
                found[region.ops[0].kind].add(region.offer.backend)
        assert here == {"cpu", "fast NumPy", "specification"}
    for kind, backends in found.items():
        assert ("cpu" in backends) == (kind not in COPIES), kind
        assert backends - {"cpu"}, kind


class OffByOne(Backend):
    """A backend one op of which gives numbers that are one too large, or too small: the first, and
    every so many more."""

    def __init__(self, backend: Backend, phase: str, op: str, step: int, every: int) -> None:
        self._backend, self._place = backend, (phase, op)
        self._step, self._every = step, every
        self.name = backend.name

    def offer(self, graph: Graph, index: int) -> Offer | Refusal:
        offer = self._backend.offer(graph, index)
        if isinstance(offer, Refusal) or (graph.name, offer.ops[0].name) != self._place:
            return offer
        return offer._replace(bind=partial(self._bind, offer))

    def _bind(self, offer: Offer, bound: Bound) -> Step:
        right, out = offer.bind(bound), bound.outputs[0]

        def wrong() -> None:
            right()
            out.flat[:: self._every] = out.flat[:: self._every] + self._step

        return wrong

    def join(self, steps: Sequence[Step]) -> list[Step]:
        return self._backend.join(steps)


def _drawn_ops(count: int) -> list[tuple[str, str, int, int]]:
    """Phases and ops, the step, and of how many numbers one is off: of those that the digest is
    made of a single one; of those that are rounded on the way, a third."""
    whole = 2**31
    told = [("encoder", "states"), ("prefill", "logits"), ("step", "logits"), ("choice", "tokens")]
    ops = [(graph.name, op.name) for graph in GRAPHS for op in graph.ops]
    assert {*told} <= {*ops}
    rng = np.random.default_rng(1)
    drawn = [ops[i] for i in rng.choice(len(ops), count, replace=False)]
    steps = rng.choice([-1, 1], len(told) + count).tolist()
    places = [(*op, whole) for op in told] + [(*op, 3) for op in drawn]
    return [
        (phase, op, step, every) for (phase, op, every), step in zip(places, steps, strict=True)
    ]


@pytest.mark.parametrize(("phase", "op", "step", "every"), _drawn_ops(20))
def test_one_step_off_in_one_op_is_another_digest(
    phase: str, op: str, step: int, every: int, expected: str
) -> None:
    found = []
    for wrong in (0, step):
        usage = Usage(precision="int8")
        backends = (kernels(usage), FastNumPy(), Specification())
        off = (OffByOne(each, phase, op, wrong, every) for each in backends)
        found.append(digest(Machine(tuple(off), usage=usage), recordings=RECORDINGS[:1]))
    assert found[0] != found[1]
