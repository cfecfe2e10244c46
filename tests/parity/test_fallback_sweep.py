"""Every product of the built-in model fails alone, in every way a device can fail.

Products with weights run on the software device's INT8 kernels: all of them, every second one, then
all again while one op, which has a kernel to itself, fails once. A recording must have the same
tokens and probabilities as with ``--precision int8`` on NumPy, and the report must name what fell
back and nothing else. tests/unit/test_accelerator.py does the same with a micro model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.npu.faults import WAYS, Chooser, Directed, Fault, Way, directed_machine
from tests.support.npu.gemm_kernels import gemm_entry
from whisper_npu.audio import stream_audio
from whisper_npu.audio.features import compute_log_mel
from whisper_npu.backends.npu.device import DeviceLost
from whisper_npu.backends.npu.registry import KernelEntry
from whisper_npu.backends.npu.software import SoftwareDevice
from whisper_npu.backends.numpy import numpy_backends
from whisper_npu.decoding.engine import Engine
from whisper_npu.decoding.options import TranscribeOptions
from whisper_npu.decoding.timing import alignment_heads
from whisper_npu.decoding.windows import transcribe_windows
from whisper_npu.hub.folders import model_directory
from whisper_npu.model.builders import PHASES, build_phase
from whisper_npu.model.checkpoint import load_checkpoint
from whisper_npu.model.graph import Graph, Op
from whisper_npu.results import Segment
from whisper_npu.runtime.machine import Machine
from whisper_npu.runtime.model import Model
from whisper_npu.runtime.usage import Usage
from whisper_npu.text.tokenizer import Tokenizer

JFK = Path(__file__).parents[2] / "samples" / "jfk.flac"
LARGE, SMALL = gemm_entry(64), gemm_entry(16)
OPTIONS = TranscribeOptions.from_keywords(language="en", temperature=0.0)


class Sweep:
    """The built-in model and a recording."""

    def __init__(self) -> None:
        self.checkpoint = load_checkpoint(model_directory("demo"))
        dims, generation = self.checkpoint.dims, self.checkpoint.generation
        self._tokenizer = Tokenizer.from_dir(self.checkpoint.path, dims.n_vocab, generation)
        self._heads = alignment_heads(generation, dims)
        self._expected = self._transcribe(Model(self.checkpoint, "int8", Machine(numpy_backends())))
        self.ops = [
            (phase, op.name)
            for phase in PHASES
            for op in build_phase(phase, dims, precision="int8").ops
            if op.kind == "product_int8"
        ]

    def _transcribe(self, model: Model) -> list[Segment]:
        blocks = stream_audio(str(JFK))
        with (
            compute_log_mel(blocks, model.dims.n_mels, model.log_mel, "int8") as features,
            Engine(model).open() as recording,
        ):
            found = list(
                transcribe_windows(recording, self._tokenizer, features, OPTIONS, self._heads)
            )
            model.machine.usage.counts.add(recording.counts_so_far())
            return found

    def runs_as_on_numpy(self, device: SoftwareDevice, choose: Chooser, usage: Usage) -> bool:
        """Whether all of a transcription is equal to the last bit."""
        npu = Directed(device, (LARGE, SMALL), choose, usage)
        model = Model(self.checkpoint, "int8", directed_machine(npu))
        return self._transcribe(model) == self._expected


@pytest.fixture(scope="module")
def sweep() -> Sweep:
    return Sweep()


@pytest.mark.parametrize(
    "on_kernel",
    [lambda i: True, lambda i: i % 2 == 0, lambda i: i % 2 == 1],
    ids=["all products", "every second product", "the others"],
)
def test_products_on_kernels(sweep: Sweep, on_kernel: Callable[[int], bool]) -> None:
    places = {op: (LARGE, SMALL)[i // 2 % 2] for i, op in enumerate(sweep.ops) if on_kernel(i)}

    def choose(graph: Graph, op: Op) -> KernelEntry | None:
        return places.get((graph.name, op.name))

    usage = Usage()
    assert sweep.runs_as_on_numpy(SoftwareDevice(), choose, usage)
    assert usage.counts.launches > 0
    assert usage.fallbacks == []


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_each_product_alone_fails(sweep: Sweep, way: Way) -> None:
    wrong: list[str] = []
    reached = set()
    for failing in sweep.ops:

        def choose(graph: Graph, op: Op, failing: tuple[str, str] = failing) -> KernelEntry:
            return SMALL if (graph.name, op.name) == failing else LARGE

        fault, usage = Fault(SMALL.contract.name, way), Usage()
        if not sweep.runs_as_on_numpy(SoftwareDevice(fault), choose, usage):
            wrong.append(f"{failing}: another transcript")
        if fault.seen >= way.nth:
            reached.add(failing)
            wrong += unexpected(usage, failing, way, fault)
    assert wrong == []
    # There is one window and one prompt: only products of steps are launched more than once.
    once = way.action == "launch" and way.nth > 1
    assert reached >= {op for op in sweep.ops if not once or op[0] == "step"}


def unexpected(usage: Usage, failing: tuple[str, str], way: Way, fault: Fault) -> list[str]:
    """What the report of fallbacks has that it should not, or lacks."""
    found = [(event.phase, event.op) for event in usage.fallbacks]
    wrong = {event.reason for event in usage.fallbacks} != {way.error.reason}
    if way.error is DeviceLost:
        # Nothing is asked of it any more, so whatever ran since is on NumPy. Kernels are opened
        # for the weights, before anything runs.
        first = found[0] == failing or way.action == "open"
        wrong |= not first or failing not in found
        wrong |= len(set(found)) < len(found) or fault.after > 0
    else:
        wrong |= found != [failing]
    return [f"{failing}: fell back: {found}"] if wrong else []
