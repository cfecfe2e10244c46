"""A family of its own, as a developer would add one: GELU of float32 rows, by tiles of 16 x 32."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from tests.support.npu.entries import contract
from whisper_npu.backends.npu.adversarial import FLOATS
from whisper_npu.backends.npu.device import U8
from whisper_npu.backends.npu.families.family import Family, SoftwareMemory, Task, Timed, Work
from whisper_npu.backends.npu.kernel_rates import KernelRates
from whisper_npu.backends.npu.launch_case import LaunchCase
from whisper_npu.backends.npu.registry import KernelEntry
from whisper_npu.model.graph import Graph
from whisper_npu.ops.activation import gelu
from whisper_npu.runtime.backend import Bound, Step

TILE = (16, 32)
NBYTES = 4 * math.prod(TILE)


class GeluRows(Family):
    """One tile for a launch; what is smaller is filled up with zeros."""

    kinds = ("gelu",)

    def cases(self, rng: np.random.Generator) -> Iterator[LaunchCase]:
        for _ in range(2):
            x = FLOATS["random"](rng, TILE)
            yield LaunchCase("random", (), (x,), (gelu(x),))

    def timed(self) -> tuple[Timed, ...]:
        return (Timed((), (NBYTES, NBYTES)),)

    def simulate(
        self,
        shape: tuple[int, ...],
        inputs: Sequence[SoftwareMemory],
        outputs: Sequence[SoftwareMemory],
    ) -> None:
        x, y = (memory.device.view(np.float32).reshape(TILE) for memory in (*inputs, *outputs))
        # Where launches are timed, nothing was written.
        with np.errstate(over="ignore"):
            gelu(x, y)

    def work(self, graph: Graph, index: int, rates: KernelRates) -> Work | None:
        op = graph.ops[index]
        if op.kind != "gelu" or graph[op.inputs[0]].size > math.prod(TILE):
            return None
        return Work((op,), (), (NBYTES,), (NBYTES,), rates.launch_seconds)

    def task(self, bound: Bound, arrays: Sequence[U8], sums: None) -> Task:
        x, y = (array.reshape(-1) for array in (*bound.inputs, *bound.outputs))
        source, target = (array.view(np.float32)[: x.size] for array in arrays)

        def wrong() -> str | None:
            count = np.count_nonzero(target != gelu(x))
            return f"{count} of {x.size} values" if count else None

        return Task(partial(np.copyto, source, x), partial(np.copyto, y, target), wrong)

    def numpy(self, bound: Bound) -> Step:
        return partial(gelu, *bound.inputs, *bound.outputs)


def toy_entry() -> KernelEntry:
    """A kernel of this family. Its files are not there."""
    buffers = [("bo0", "input"), ("bo1", "output")]
    arguments = [
        {"index": 0, "name": "opcode", "role": "opcode"},
        {"index": 1, "name": "instr", "role": "instructions", "group": 1, "bytes": 300},
        {"index": 2, "name": "ninstr", "role": "size"},
        *(
            {"index": 3 + i, "name": name, "role": role, "group": 3 + i, "bytes": NBYTES,
             "dtype": "float32"}
            for i, (name, role) in enumerate(buffers)
        ),
    ]  # fmt: skip
    made = contract(name="toy_gelu", family="gelu_rows", op="gelu", model=None, arguments=arguments)
    return KernelEntry(made, Path("nowhere"))
