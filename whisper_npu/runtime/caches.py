"""The keys and values that the decoder attends to: of the windows, and of the tokens so far."""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from whisper_npu.model import builders
from whisper_npu.ops.arrays import I64
from whisper_npu.runtime.arena import Block, lay_out
from whisper_npu.runtime.backend import Array
from whisper_npu.runtime.network import Network
from whisper_npu.runtime.plan import Observer


class CrossCache:
    """Keys and values of the encoder states of up to ``n_audio`` windows, for all decoder layers.

    They are computed window by window: one plan for each takes less memory than one for every size
    of a batch, and no more time. A window that is already here is moved, not computed again.
    """

    def __init__(self, network: Network, n_audio: int) -> None:
        self.n_audio = n_audio
        graph = builders.build_cross_kv(network.dims, precision=network.precision)
        self.states = _in_one_block(
            {
                t.name: ((n_audio, *t.shape[1:]), np.dtype(network.states[t.name].dtype))
                for t in graph.role("state")
            }
        )
        self._plans = [network.plan(graph, self.slots(i, i + 1)) for i in range(n_audio)]
        # The states that each slot was computed from. As they are kept, no others get their place
        # in memory, by which they are known.
        self._sources: list[Array | None] = [None] * n_audio

    def slots(self, start: int, stop: int) -> dict[str, Array]:
        """The keys and values of windows ``start`` to ``stop``."""
        return {name: cache[start:stop] for name, cache in self.states.items()}

    def fill(self, states: Array | Sequence[Array], observe: Observer | None = None) -> None:
        """Have the windows of ``states`` in the first slots; with ``observe`` all are computed."""
        for slot, window in enumerate(states):
            held = None if observe is not None else self._find(window, slot)
            if held is not None:
                self._move(held, slot)
            else:
                self._plans[slot](observe, states=window[None])
                self._sources[slot] = window

    def _find(self, window: Array, start: int) -> int | None:
        """The first slot from ``start`` on that has the keys and values of a window."""
        for slot, source in enumerate(self._sources[start:], start):
            if source is not None and _same_memory(source, window):
                return slot
        return None

    def _move(self, source: int, target: int) -> None:
        if source != target:
            for cache in self.states.values():
                cache[target] = cache[source]
            self._sources[target] = self._sources[source]

    def keep(self, windows: I64) -> None:
        """Move some windows, in ascending order, to the first slots."""
        for target, source in enumerate(windows.tolist()):
            self._move(source, target)


def _in_one_block(arrays: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> dict[str, Array]:
    """Arrays of these shapes and types side by side: NumPy asks for huge pages, which are read
    faster, only for large ones."""
    nbytes = {name: math.prod(shape) * dtype.itemsize for name, (shape, dtype) in arrays.items()}
    layout = lay_out({name: Block(count, 0, 0) for name, count in nbytes.items()})
    memory = np.empty(layout.nbytes, np.uint8)

    def cut(name: str) -> Array:
        shape, dtype = arrays[name]
        start = layout.offsets[name]
        return memory[start : start + nbytes[name]].view(dtype).reshape(shape)

    return {name: cut(name) for name in arrays}


def _same_memory(a: Array, b: Array) -> bool:
    return (a.ctypes.data, a.shape, a.strides) == (b.ctypes.data, b.shape, b.strides)


class OwnCache:
    """Keys and values of the tokens of up to ``sequences`` sequences, for all decoder layers."""

    def __init__(self, network: Network, sequences: int) -> None:
        self.sequences = sequences
        graph = builders.build_step(network.dims, precision=network.precision)
        tensors = [t for t in graph.role("state") if t.name.startswith("self.")]
        # In one array, so that sequences are moved in one go: [2 n_layer, sequences, n_head, n_ctx,
        # d_head].
        shape = len(tensors), sequences, *tensors[0].shape[1:]
        self._all = _untouched(shape, np.dtype(tensors[0].dtype))
        self.states = {t.name: cache for t, cache in zip(tensors, self._all, strict=True)}

    def copy(self, source: I64, target: I64, start: int, stop: int) -> None:
        """Copy positions ``start`` to ``stop`` of some sequences to others; all are read before any
        is written."""
        self._all[:, target, :, start:stop] = self._all[:, source, :, start:stop]


def _untouched(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Zeros that take memory page by page as they are written: few texts fill their context.

    NumPy asks for huge pages, all of which would be there from the first token on.
    """
    nbytes = max(1, dtype.itemsize * math.prod(shape))
    if hasattr(mmap, "MAP_PRIVATE"):
        memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    else:
        memory = mmap.mmap(-1, nbytes)
    return np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape)
