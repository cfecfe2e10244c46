"""Every product of a model fails alone, in every way a device can fail: is the transcript the same?

    python tools/fallback_sweep.py samples/*.flac --model demo --kernels DIR

Products with weights run on the software device's INT8 kernels: all of them, every second one, then
all again while one op, which has a kernel to itself, fails once. The recordings must have the same
tokens and probabilities as with ``--precision int8`` on NumPy, and the report must name what fell
back and nothing else. Prints a line for each way and a total; exit code 1 if anything differed.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from whisper_npu.audio import stream_audio
from whisper_npu.audio.features import LogMel, compute_log_mel
from whisper_npu.backends.npu.backend import NpuBackend
from whisper_npu.backends.npu.device import (
    BufferRefused,
    Device,
    DeviceError,
    DeviceLost,
    LaunchFailed,
    LaunchTimedOut,
    NoContext,
)
from whisper_npu.backends.npu.manager import VERIFIED, KernelStatus
from whisper_npu.backends.npu.rates import PHOENIX_CORE
from whisper_npu.backends.npu.registry import KernelEntry, load_registry
from whisper_npu.backends.npu.software import SoftwareDevice
from whisper_npu.backends.numpy import numpy_backends
from whisper_npu.decoding.options import TranscribeOptions
from whisper_npu.decoding.timing import alignment_heads
from whisper_npu.decoding.windows import transcribe_windows
from whisper_npu.hub.folders import model_directory
from whisper_npu.model.builders import PHASES, build_phase
from whisper_npu.model.checkpoint import load_checkpoint
from whisper_npu.model.graph import Graph, Op
from whisper_npu.results import Segment
from whisper_npu.runtime.backend import Offer, Refusal
from whisper_npu.runtime.machine import Machine
from whisper_npu.runtime.model import Model
from whisper_npu.runtime.usage import Usage
from whisper_npu.text.tokenizer import Tokenizer

LARGE, SMALL = "gemm_int8_64x64x64", "gemm_int8_16x64x64"
OPTIONS = TranscribeOptions.from_keywords(language="en", temperature=0.0)


@dataclass(frozen=True)
class Way:
    """The ``nth`` action of a kind fails. A kernel's buffers are weights, rows and sums."""

    action: str
    nth: int
    error: type[DeviceError]

    def __str__(self) -> str:
        return f"{self.action} {self.nth}: {self.error.reason}"


WAYS = (
    Way("launch", 1, LaunchFailed),
    Way("launch", 2, LaunchFailed),
    Way("launch", 1, LaunchTimedOut),
    Way("launch", 2, LaunchTimedOut),
    Way("launch", 1, DeviceLost),
    Way("launch", 2, DeviceLost),
    Way("launch", 2, NoContext),
    Way("open", 1, NoContext),
    Way("open", 1, DeviceLost),
    Way("program", 1, BufferRefused),
    Way("buffer", 1, BufferRefused),
    Way("buffer", 2, BufferRefused),
    Way("buffer", 3, BufferRefused),
)

# Which products, by number, are on kernels while nothing fails.
PLACEMENTS: dict[str, Callable[[int], bool]] = {
    "all products": lambda i: True,
    "every second product": lambda i: i % 2 == 0,
    "the others": lambda i: i % 2 == 1,
}


class Fault:
    """Fails a kernel once. ``seen`` counts its actions of this kind, ``after`` all later ones."""

    def __init__(self, kernel: str, way: Way) -> None:
        self.seen = self.after = 0
        self._kernel, self._way = kernel, way

    def __call__(self, action: str, kernel: str, count: int) -> DeviceError | None:
        self.after += self.seen >= self._way.nth
        if (action, kernel) != (self._way.action, self._kernel):
            return None
        self.seen += 1
        failed = self.seen == self._way.nth
        return self._way.error(f"{kernel}: {action} failed") if failed else None


# Which kernel an op should run on; None for NumPy.
Chooser = Callable[[Graph, Op], "KernelEntry | None"]


class Directed(NpuBackend):
    """Kernels for the products that are chosen, once for each op of a phase, and for no others."""

    def __init__(
        self,
        device: Device,
        entries: Sequence[KernelEntry],
        choose: Chooser,
        usage: Usage,
        check_rate: float = 0.0,
        seed: int = 0,
    ) -> None:
        kernels = [KernelStatus(entry, {}, VERIFIED, None) for entry in entries]
        rates = {kernel.name: PHOENIX_CORE for kernel in kernels}
        super().__init__(device, kernels, rates, usage, check_rate, seed)
        self._choose = choose
        self._chosen: dict[tuple[str, str], KernelEntry | None] = {}

    def offer(self, graph: Graph, index: int) -> Offer | Refusal:
        """See ``Backend``."""
        op = graph.ops[index]
        if op.kind not in self.kinds:
            return super().offer(graph, index)
        key = graph.name, op.name
        if key not in self._chosen:
            self._chosen[key] = self._choose(graph, op)
        entry = self._chosen[key]
        if entry is None:
            return Refusal(self.name, "not chosen")
        return self.offer_of(entry.contract.name, graph, index)


def directed_machine(npu: NpuBackend) -> Machine:
    """The kernels, and NumPy for the rest."""
    return Machine((npu, *numpy_backends()), usage=npu.usage)


class Sweep:
    """A model and recordings."""

    def __init__(
        self, model: str, audio: Sequence[str], large: KernelEntry, small: KernelEntry
    ) -> None:
        self.checkpoint = load_checkpoint(model_directory(model))
        self._large, self._small = large, small
        dims, generation = self.checkpoint.dims, self.checkpoint.generation
        self._tokenizer = Tokenizer.from_dir(self.checkpoint.path, dims.n_vocab, generation)
        self._heads = alignment_heads(generation, dims)
        self._audio = audio
        plain = Machine(numpy_backends())
        self._expected = self._transcribe(Model(self.checkpoint, "int8", plain))
        self.ops = [
            (phase, op.name)
            for phase in PHASES
            for op in build_phase(phase, dims, precision="int8").ops
            if op.kind == "linear_int8"
        ]

    def _model(self, device: SoftwareDevice, choose: Chooser, usage: Usage) -> Model:
        npu = Directed(device, (self._large, self._small), choose, usage)
        return Model(self.checkpoint, "int8", directed_machine(npu))

    def _features(self, path: str, model: Model) -> LogMel:
        return compute_log_mel(stream_audio(path), model.dims.n_mels, model.log_mel)

    def _transcribe(self, model: Model) -> list[Segment]:
        segments: list[Segment] = []
        for path in self._audio:
            features = self._features(path, model)
            transcript = transcribe_windows(model, self._tokenizer, features, OPTIONS, self._heads)
            # Ids start over with each recording; what remains is compared to the last bit.
            segments += [replace(segment, id=0) for segment in transcript]
            features.close()
        return segments

    def place(self, on_kernel: Callable[[int], bool]) -> tuple[int, bool]:
        """Products launched when those of these numbers are on kernels, by turns on either, and
        whether all is as expected."""
        places = {
            op: (self._large, self._small)[i // 2 % 2]
            for i, op in enumerate(self.ops)
            if on_kernel(i)
        }

        def choose(graph: Graph, op: Op) -> KernelEntry | None:
            return places.get((graph.name, op.name))

        usage = Usage()
        model = self._model(SoftwareDevice(), choose, usage)
        right = self._transcribe(model) == self._expected and not usage.fallbacks
        return usage.launches, right

    def run(self, phase: str, name: str, way: Way) -> str | None:
        """What is wrong after this op failed in this way, None if nothing is; "" if it never
        came so far."""

        def choose(graph: Graph, op: Op) -> KernelEntry:
            return self._small if (graph.name, op.name) == (phase, name) else self._large

        fault, usage = Fault(self._small.contract.name, way), Usage()
        model = self._model(SoftwareDevice(fault), choose, usage)
        if self._transcribe(model) != self._expected:
            return f"{phase}/{name}: another transcript"
        if fault.seen < way.nth:
            return ""
        found = [(event.phase, event.op) for event in usage.fallbacks]
        wrong = {event.reason for event in usage.fallbacks} != {way.error.reason}
        if way.error is DeviceLost:
            # Nothing is asked of it any more, so whatever ran since is on NumPy. Kernels are opened
            # for the weights, before anything runs.
            first = found[0] == (phase, name) or way.action == "open"
            wrong |= not first or (phase, name) not in found
            wrong |= len(set(found)) < len(found) or fault.after > 0
        else:
            wrong |= found != [(phase, name)]
        return f"{phase}/{name}: fell back: {found}" if wrong else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("audio", nargs="+")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--kernels", action="append", default=[], metavar="DIR")
    parser.add_argument("--every", type=int, default=1, help="only every Nth op")
    args = parser.parse_args()
    logging.getLogger("whisper_npu").setLevel(logging.ERROR)
    registry = load_registry(*args.kernels)
    sweep = Sweep(args.model, args.audio, registry[LARGE], registry[SMALL])
    ops = sweep.ops[:: args.every]
    tried = failed = 0
    for what, on_kernel in PLACEMENTS.items():
        launches, right = sweep.place(on_kernel)
        print(f"{what} on kernels: {launches} launches, {'same' if right else 'WRONG'}", flush=True)
        failed += not right
    for way in WAYS:
        outcomes = [sweep.run(phase, name, way) for phase, name in ops]
        wrong = [outcome for outcome in outcomes if outcome]
        reached = len(ops) - outcomes.count("")
        print(f"{way}: {reached} of {len(ops)} ops failed so, {len(wrong)} wrong", flush=True)
        for line in wrong:
            print(f"    {line}")
        tried, failed = tried + reached, failed + len(wrong)
    print(f"{tried} failures of {len(ops)} ops (of {len(sweep.ops)}), {failed} wrong")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
