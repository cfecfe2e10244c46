"""The plans used last, by shape."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Made = TypeVar("Made")


class PlanCache(Generic[Key, Made]):
    """Makes plans, or what is made of plans, on demand and keeps the ``size`` used last; each plan
    holds an arena."""

    def __init__(self, size: int, make: Callable[[Key], Made]) -> None:
        self._size, self._make = size, make
        self._made: OrderedDict[Key, Made] = OrderedDict()

    def __getitem__(self, key: Key) -> Made:
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = self._make(key)
            if len(self._made) > self._size:
                self._made.popitem(last=False)
        else:
            self._made.move_to_end(key)
        return made

    def clear(self) -> None:
        """Forget all."""
        self._made.clear()
