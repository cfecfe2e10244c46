"""The plans used last, by shape."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from whisper_npu.runtime.plan import Plan

Key = TypeVar("Key", bound=Hashable)


class PlanCache(Generic[Key]):
    """Makes plans on demand and keeps the ``size`` used last; each holds an arena."""

    def __init__(self, size: int, make: Callable[[Key], Plan]) -> None:
        self._size, self._make = size, make
        self._plans: OrderedDict[Key, Plan] = OrderedDict()

    def __getitem__(self, key: Key) -> Plan:
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._make(key)
            if len(self._plans) > self._size:
                self._plans.popitem(last=False)
        else:
            self._plans.move_to_end(key)
        return plan
