"""What NumPy does on this machine, measured in a few milliseconds, and what an op would take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from whisper_npu.model.graph import Graph, Op
from whisper_npu.model.report import op_bytes, op_flops


@dataclass(frozen=True)
class HostRates:
    """What NumPy does on this machine: operations and bytes per second."""

    flops: float
    bytes_per_second: float

    def seconds(self, graph: Graph, op: Op) -> float:
        """Time of an op on NumPy: the longer of computing and moving.

        An int8 weight is held as float32 there, and read as such.
        """
        moved = op_bytes(graph, op)
        if op.kind == "product_int8":
            moved += 3 * graph[op.inputs[2]].nbytes
        return max(op_flops(graph, op) / self.flops, moved / self.bytes_per_second)


def measure_host() -> HostRates:
    """The rates of this machine, from a product and a copy of a few milliseconds each."""
    a = np.ones((512, 512), np.float32)
    out = np.empty_like(a)
    source = np.ones(1 << 22, np.float32)
    target = np.empty_like(source)
    product, copy = (
        min(_timed(action) for _ in range(5))
        for action in (lambda: np.matmul(a, a, out=out), lambda: np.copyto(target, source))
    )
    return HostRates(2 * 512**3 / product, 2 * source.nbytes / copy)


def _timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
