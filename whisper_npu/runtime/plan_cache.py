"""The plans used last, by shape."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Made = TypeVar("Made")


class PlanCache(Generic[Key, Made]):
    """Plans, or what is made of plans: the ``size`` used last, as each holds an arena.

    What makes them is given with each request and not kept: it may well belong to whoever has the
    cache, and would then keep its memory alive.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._made: OrderedDict[Key, Made] = OrderedDict()

    def get(self, key: Key, make: Callable[[], Made]) -> Made:
        """What there is for a key, or what ``make`` makes."""
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = make()
            if len(self._made) > self._size:
                self._made.popitem(last=False)
        else:
            self._made.move_to_end(key)
        return made

    def clear(self) -> None:
        """Forget all."""
        self._made.clear()
