"""A micro model on the software device, two windows of it, and faults for one op at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.support.npu.faults import Chooser, Directed, directed_machine
from tests.support.npu.gemm_kernels import gemm_entry
from tests.unit.conftest import random_weights
from whisper_npu.backends.npu.registry import KernelEntry
from whisper_npu.backends.npu.software import SoftwareDevice
from whisper_npu.backends.numpy import numpy_backends
from whisper_npu.model.builders import PHASES, build_phase
from whisper_npu.model.checkpoint import Checkpoint
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.model.graph import Graph, Op
from whisper_npu.runtime.machine import Machine
from whisper_npu.runtime.model import Model
from whisper_npu.runtime.usage import Usage

DIMS = ModelDimensions(
    n_mels=80,
    n_audio_ctx=10,
    n_audio_state=24,
    n_audio_head=3,
    n_audio_layer=1,
    n_vocab=50,
    n_text_ctx=16,
    n_text_state=24,
    n_text_head=2,
    n_text_layer=1,
)
CHECKPOINT = Checkpoint(Path("micro"), DIMS, {}, {}, random_weights(DIMS))
FEATURES = np.random.RandomState(5).standard_normal((2, 80, 20)).astype(np.float32)
# What ``run_windows`` runs, in order.
RUNS = 2 * ("encoder", "cross_kv", "prefill", "step", "step")

LARGE, SMALL = gemm_entry(64), gemm_entry(16)

# Products by phase, all of them, and all in the order in which ``run_windows`` runs them.
PRODUCTS = {
    phase: [op.name for op in build_phase(phase, DIMS, 3, "int8").ops if op.kind == "product_int8"]
    for phase in PHASES
}
OPS = [(phase, op) for phase, ops in PRODUCTS.items() for op in ops]
TIMELINE = [(phase, op) for phase in RUNS for op in PRODUCTS[phase]]


def numpy_model() -> Model:
    return Model(CHECKPOINT, "int8", Machine(numpy_backends()))


def accelerated(
    choose: Chooser,
    device: SoftwareDevice | None = None,
    check_rate: float = 0.0,
    seed: int = 0,
    proving: bool = True,
) -> Model:
    """The micro model with ops on a device as ``choose`` says."""
    usage = Usage(device="software")
    npu = directed(device or SoftwareDevice(), choose, usage, check_rate, seed, proving)
    return Model(CHECKPOINT, "int8", directed_machine(npu))


def directed(
    device: SoftwareDevice,
    choose: Chooser,
    usage: Usage,
    check_rate: float = 0.0,
    seed: int = 0,
    proving: bool = True,
) -> Directed:
    """Both kernels, for what is chosen."""
    return Directed(device, (LARGE, SMALL), choose, usage, check_rate, seed, proving)


def run_windows(model: Model) -> list[np.ndarray]:
    """Encoder states and all logits of two windows."""
    results = []
    for window in FEATURES:
        states = model.encode(window[None])
        session = model.decoder(states)
        results += [states, session.prefill([[1, 2, 3]], [0, 2]).copy()]
        results += [session.step([token]).copy() for token in (4, 5)]
    return results


def same(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> bool:
    """Whether all arrays are equal to the bit."""
    pairs = zip(found, expected, strict=True)
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def everywhere(entry: KernelEntry) -> Chooser:
    return lambda graph, op: entry


@dataclass
class Alternating:
    """Every second op that is asked for, beginning with the first or the second."""

    entries: Sequence[KernelEntry]
    first: int = 0
    asked: int = 0

    def __call__(self, graph: Graph, op: Op) -> KernelEntry | None:
        self.asked += 1
        if (self.asked + self.first) % 2:
            return self.entries[self.asked // 2 % len(self.entries)]
        return None


def all_but(phase: str, name: str) -> Chooser:
    """One op has the small kernel for itself, all others are on the large one."""
    return lambda graph, op: SMALL if (graph.name, op.name) == (phase, name) else LARGE


def fallbacks(model: Model) -> list[tuple[str, str, str, str]]:
    return [(f.phase, f.op, f.kernel, f.reason) for f in model.machine.usage.fallbacks]


def ran(model: Model) -> Counter[str]:
    """How many products each kernel has computed, or NumPy."""
    found: Counter[str] = Counter()
    for (kind, kernel), count in model.machine.usage.counts.ops.items():
        if kind == "product_int8":
            found[kernel] += count
    return found
