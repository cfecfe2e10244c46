"""Where windows lie in caches: for the kernels that read or write those, and for their cases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from whisper_npu.backends.cpu.records import Values
from whisper_npu.ops.arrays import I64
from whisper_npu.ops.attention import own_caches
from whisper_npu.runtime.backend import Array


def cache_values(x: Array, cache: Array, slot: Array) -> Values:
    # [b, n, h * dh], [slots, ..., h, t, dh], [w]
    """What a structure says of tokens of sequences and of the caches that they read or write."""
    slots, *_, n_head, t, d_head = cache.shape
    b, n, _ = x.shape
    return {
        "b": b, "n": n, "group": b // len(slot), "t": t, "n_head": n_head, "d_head": d_head,
        "slots": slots,
    }  # fmt: skip


def own_cache_values(x: Array, cache: Array, slot: Array) -> Values:
    # [b, n, h * dh], [slots, members, h, ctx, dh], [w]
    """The same where every sequence has a cache of its own."""
    return {**cache_values(x, cache, slot), "members": cache.shape[1]}


class Places(NamedTuple):
    """Windows of a batch in caches that have room for more."""

    positions: tuple[int, ...]
    slots: tuple[int, ...]
    group: int
    all_slots: int
    members: int

    @property
    def sequences(self) -> int:
        """Those of all windows."""
        return self.group * len(self.slots)

    def inputs(self) -> tuple[I64, I64]:
        """The last inputs of an op."""
        return np.array(self.positions), np.array(self.slots)

    def spoil(self, cache: Array, n: int, value: float) -> None:
        """Put a value wherever n new tokens at the positions see nothing."""
        seen = np.zeros(cache.shape, bool)
        for first, own in own_caches(seen, *self.inputs(), self.sequences):
            own[:, : first + n] = True
        cache[~seen] = value


def places(first: int, last: int) -> Iterator[Places]:
    """One window in caches of its own; several in some of more, at positions up to ``last``."""
    yield Places((first,), (0,), 2, 1, 2)
    yield Places((last, first, (first + last) // 2), (2, 0, 3), 2, 4, 3)
