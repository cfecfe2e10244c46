"""One block of memory for all activations of graphs, laid out by liveness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# A cache line, and what vector loads like best.
ALIGNMENT = 64


@dataclass(frozen=True)
class Block:
    """Memory needed from the op ``first`` to the op ``last``, both included."""

    nbytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Layout:
    """Byte offsets of blocks in an arena of ``nbytes``."""

    offsets: Mapping[str, int]
    nbytes: int


def lay_out(blocks: Mapping[str, Block]) -> Layout:
    """Place blocks so that those alive at the same time do not overlap.

    Greedy by size: the largest block first, each at the lowest offset that is free over its
    whole life.
    """
    placed: list[tuple[int, int, Block]] = []
    offsets: dict[str, int] = {}
    total = 0
    for name, block in sorted(blocks.items(), key=lambda item: (-item[1].nbytes, item[0])):
        size = -(-block.nbytes // ALIGNMENT) * ALIGNMENT
        offset = 0
        for start, stop, other in sorted(placed, key=lambda entry: entry[0]):
            overlaps_in_time = other.first <= block.last and block.first <= other.last
            if overlaps_in_time and offset < stop:
                if offset + size <= start:
                    break
                offset = stop
        placed.append((offset, offset + size, block))
        offsets[name] = offset
        total = max(total, offset + size)
    return Layout(offsets, total)


class Arena:
    """Memory for plans that never run at the same time, as large as the largest of them wants."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def take(self, nbytes: int) -> NDArray[np.uint8]:
        """So many bytes, which others get as well. What was taken before stays where it is."""
        if nbytes > self._memory.size:
            self._memory = np.empty(nbytes, np.uint8)
        return self._memory[:nbytes]
