"""The keys and values that the decoder attends to: of the windows, and of the tokens so far.

Windows lie in slots. Plans are on all slots and are told which windows they run on, so that a
window begins, ends and moves from one batch to another without a copy.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from whisper_npu.model import builders
from whisper_npu.model.graph_builder import CacheRoom
from whisper_npu.ops.arrays import I64
from whisper_npu.runtime.arena import Block, lay_out
from whisper_npu.runtime.backend import Array
from whisper_npu.runtime.network import Network
from whisper_npu.runtime.plan import Observer, Plan


class Slot:
    """A slot that a window has, until this object is dropped."""

    def __init__(self, index: int, free: list[int]) -> None:
        self.index, self._free = index, free

    def __del__(self) -> None:
        self._free.append(self.index)


class CrossCache:
    """Keys and values of the encoder states of windows, for all decoder layers: one window a slot.

    They are computed window by window: one plan for each slot takes less memory than one for every
    size of a batch, and no more time.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._graph = builders.build_cross_kv(network.dims, precision=network.precision)
        self.slots = 0
        self.states: dict[str, Array] = {}
        self._plans: list[Plan | None] = []
        # The states that each slot was computed from. As they are kept, no others get their place
        # in memory, by which they are known.
        self._sources: list[Array | None] = []
        # Those that were given back first come first.
        self._free: list[int] = []

    def grow(self, slots: int) -> None:
        """Have so many slots; windows keep theirs."""
        before = self.states
        self.states = _in_one_block(
            {
                t.name: ((slots, *t.shape[1:]), np.dtype(self._network.states[t.name].dtype))
                for t in self._graph.role("state")
            }
        )
        for name, cache in before.items():
            self.states[name][: self.slots] = cache
        self._sources += [None] * (slots - self.slots)
        self._free += range(self.slots, slots)
        self.slots = slots
        self.forget_plans()

    def forget_plans(self) -> None:
        """Make them anew when they are needed."""
        self._plans = [None] * self.slots

    @property
    def n_free(self) -> int:
        """Slots that no window has."""
        return len(self._free)

    def claim(self, window: Array, observe: Observer | None = None) -> Slot:
        """A free slot with the keys and values of a window; with ``observe`` they are computed in
        any case. Raises IndexError without a free slot."""
        held = None if observe is not None else self._find(window)
        index = held if held in self._free else next(self._unneeded(), self._free[0])
        self._free.remove(index)
        slot = Slot(index, self._free)
        if held is None:
            self._compute(index, window, observe)
        elif held != index:
            for cache in self.states.values():
                cache[index] = cache[held]
            self._sources[index] = self._sources[held]
        return slot

    def _unneeded(self) -> Iterator[int]:
        """Free slots that hold nothing."""
        return (index for index in self._free if self._sources[index] is None)

    def knows(self, window: Array) -> bool:
        """Whether a slot has the keys and values of a window."""
        return self._find(window) is not None

    def _find(self, window: Array) -> int | None:
        """A slot that has the keys and values of a window, best a free one."""
        found = None
        for index, source in enumerate(self._sources):
            if source is not None and _same_memory(source, window):
                if index in self._free:
                    return index
                found = index
        return found

    def _compute(self, index: int, window: Array, observe: Observer | None) -> None:
        # Until all of it is there.
        self._sources[index] = None
        plan = self._plans[index]
        if plan is None:
            own = {name: cache[index : index + 1] for name, cache in self.states.items()}
            plan = self._plans[index] = self._network.plan(self._graph, own)
        plan(observe, states=window[None])
        self._sources[index] = window


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
    """Keys and values of the tokens of sequences, for all decoder layers: of each slot there are
    some members, one for each sequence of its window."""

    def __init__(self, network: Network) -> None:
        graph = builders.build_step(network.dims, precision=network.precision)
        tensors = [t for t in graph.role("state") if t.name.startswith("self.")]
        self._names = [t.name for t in tensors]
        self._shape, self._dtype = tensors[0].shape[2:], np.dtype(tensors[0].dtype)
        self.room = CacheRoom(0, 0)
        self._all = self._untouched()
        # Positions that have been written in any member of a slot.
        self._written = np.zeros(0, np.int64)

    def grow(self, room: CacheRoom) -> None:
        """Have so much room; what was written stays."""
        (slots, members), before, written = self.room, self._all, self._written
        self.room = room
        self._all = self._untouched()
        self._written = np.zeros(room.slots, np.int64)
        self._written[:slots] = written
        for slot, count in enumerate(written.tolist()):
            self._all[:, slot, :members, :, :count] = before[:, slot, :, :, :count]

    @property
    def states(self) -> dict[str, Array]:
        """By name, [slots, members, n_head, n_ctx, d_head]."""
        return dict(zip(self._names, self._all, strict=True))

    def wrote(self, slots: I64, positions: I64) -> None:
        """Take note that windows have tokens up to these positions."""
        self._written[slots] = positions

    def copy(
        self, slots: I64 | int, source: I64, target: I64, start: int, stop: int
    ) -> None:  # [k], [k], [k]
        """Copy positions ``start`` to ``stop`` of some members of slots to others; all are read
        before any is written."""
        self._all[:, slots, target, :, start:stop] = self._all[:, slots, source, :, start:stop]

    def _untouched(self) -> Array:
        """Zeros that take memory page by page as they are written: few texts fill their context.

        NumPy asks for huge pages, all of which would be there from the first token on. In one
        array, so that sequences are copied in one go: [2 n_layer, slots, members, ...].
        """
        shape = len(self._names), *self.room, *self._shape
        nbytes = max(1, self._dtype.itemsize * math.prod(shape))
        if hasattr(mmap, "MAP_PRIVATE"):
            memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        else:
            memory = mmap.mmap(-1, nbytes)
        return np.frombuffer(memory, self._dtype, math.prod(shape)).reshape(shape)
