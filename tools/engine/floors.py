"""What no step can be faster than: by the bytes that it reads, and by the sums that it makes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from whisper_npu.model.graph import Graph
from whisper_npu.model.report import op_flops
from whisper_npu.ops.arrays import F32
from whisper_npu.runtime.model import Model, phase_graphs
from whisper_npu.runtime.profile import Profile
from whisper_npu.runtime.workers import workers

# Kinds of op that read a few rows of what they look up.
_LOOK_UPS = ("embed", "embed_int32")
_PRODUCTS = ("linear", "product_int8")


@dataclass(frozen=True)
class Work:
    """What a step must read at least, in bytes, and the multiply-adds in it."""

    weights: int
    cross: int
    own: int
    products: int
    attention: int

    @property
    def nbytes(self) -> int:
        """All that is read."""
        return self.weights + self.cross + self.own

    @property
    def multiply_adds(self) -> int:
        """All of them."""
        return self.products + self.attention


def work_of(model: Model, n_windows: int, position: int) -> Work:
    """The work of a step of so many windows that have ``position`` tokens before it.

    Weights are read once, in the form in which they are held; of those that tokens are looked up
    in, their rows. Of the caches it is what the windows have there.
    """
    # The tensors of the plan that a session of as many windows runs, as they lie in memory.
    graph = model._decoder.step(n_windows, 1).step.graph
    room = model._decoder.room
    cross = sum(t.nbytes for t in graph.role("state") if t.name.startswith("cross."))
    own = sum(t.nbytes for t in graph.role("state") if t.name.startswith("self."))
    dims = model.dims
    of_window = 2 * dims.n_text_layer * dims.n_text_state
    return Work(
        weights=sum(_weight_bytes(graph, t.name, n_windows) for t in graph.role("weight")),
        cross=cross // room.slots * n_windows,
        own=own // (room.slots * room.members * dims.n_text_ctx) * (position + 1) * n_windows,
        products=sum(op_flops(graph, op) for op in graph.ops if op.kind in _PRODUCTS) // 2,
        attention=of_window * (dims.n_audio_ctx + position + 1) * n_windows,
    )


def _weight_bytes(graph: Graph, name: str, n_tokens: int) -> int:
    weight = graph[name]
    readers = [op for op in graph.ops if name in op.inputs]
    if all(op.kind in _LOOK_UPS for op in readers):
        return weight.nbytes // weight.shape[0] * n_tokens
    return weight.nbytes


class Reader:
    """Reads a block of memory from its beginning to its end, again and again.

    It is as large as what a step reads, so that what a cache keeps of the one, it keeps of the
    other. A dot product of its two halves, a share for each thread, reads it as fast as anything of
    NumPy's.
    """

    def __init__(self, nbytes: int) -> None:
        self._threads = workers().threads
        count = max(1, nbytes // (8 * self._threads))
        self._halves: F32 = np.ones((self._threads, 2, count), np.float32)

    def __call__(self) -> float:
        """Seconds for each byte, of some reads."""
        times = []
        for _ in range(5):
            began = time.perf_counter()
            workers().run(self._dot, self._threads)
            times.append(time.perf_counter() - began)
        return float(np.median(times)) / self._halves.nbytes

    def _dot(self, share: int) -> None:
        first, second = self._halves[share]
        np.dot(first, second)


class Multiplier:
    """Times the products of the encoder, which are the largest."""

    def __init__(self, model: Model, features: Any) -> None:
        graphs = phase_graphs(model.dims, model.precision)
        forms = model.machine.settle(graphs)
        (graph,) = (graph for graph in graphs if graph.name == "encoder")
        self._graph, self._placed = graph, model.machine.place(graph, forms)
        self._encode = partial(model.encode, features)

    def __call__(self) -> float:
        """Seconds for each multiply-add of the fastest kind of region with products."""
        profile = Profile(self._graph, self._placed)
        profile.begin()
        self._encode(profile)
        kinds = {op.name: op.kind for op in self._graph.ops}
        return min(
            2 * each.seconds / each.flops
            for each in profile.times()
            if each.flops and any(kinds[op] in _PRODUCTS for op in each.ops)
        )
