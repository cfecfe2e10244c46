"""Hardware contexts: at most six, made when a kernel is used and again after they had to go."""

from __future__ import annotations

import gc
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable

from whisper_npu.backends.npu.device import NoContext
from whisper_npu.backends.npu.xrt.launch import Launcher
from whisper_npu.backends.npu.xrt.pyxrt_errors import PYXRT_ERRORS, is_busy, no_context

# Of the smaller of the two NPUs, npu1.
MAX_CONTEXTS = 6

_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.5


class Contexts:
    """The live contexts, one per kernel in use; the least recently used one makes room.

    ``drain``: on npu1 the end of one context breaks the process's others (their launches fail with
    ENOENT), so all of them end together. What was built on a context is built again with the next.
    """

    def __init__(self, drain: bool, timeout_s: float, holders: Callable[[], Iterable[str]]) -> None:
        self._drain = drain
        self._timeout_s = timeout_s
        self._holders = holders
        self._live: OrderedDict[Hashable, Launcher] = OrderedDict()
        self._given_up = 0

    def __len__(self) -> int:
        return len(self._live)

    def get(self, owner: Hashable, name: str, make: Callable[[], Launcher]) -> Launcher:
        """The owner's context, made by ``make`` if there is none.

        Waits while others have all contexts. Raises NoContext at the deadline, and what ``make``
        raises.
        """
        launcher = self._live.get(owner)
        if launcher is not None:
            self._live.move_to_end(owner)
            return launcher
        if self._given_up >= MAX_CONTEXTS:
            raise NoContext(
                f"kernel {name}: {self._given_up} launches of this process have hung, each in its "
                "context; start the program again"
            )
        while self._live and len(self._live) + self._given_up >= MAX_CONTEXTS:
            self._evict()
        self._live[owner] = launcher = self._make(name, make)
        return launcher

    def drop(self, owner: Hashable) -> None:
        """End the owner's context; only forget it if a launch hangs in it."""
        if owner not in self._live:
            return
        if self._live[owner].hung:
            del self._live[owner]
            self._given_up += 1
            return
        self._live.move_to_end(owner, last=False)
        self._evict()

    def close(self) -> None:
        """End all contexts."""
        while self._live:
            self._end_oldest()

    def _make(self, name: str, make: Callable[[], Launcher]) -> Launcher:
        start = time.monotonic()
        pause = _FIRST_PAUSE_S
        collected = False
        while True:
            try:
                return make()
            except PYXRT_ERRORS as error:
                if not is_busy(error):
                    raise
                # Also if the driver has fewer of them than we know, or wants one width of columns.
                if self._live:
                    self._evict()
                    continue
                if not collected:
                    # What this program has dropped without closing may hold some.
                    collected = True
                    gc.collect()
                    continue
                left = self._timeout_s - (time.monotonic() - start)
                if left <= 0:
                    others = self._holders()
                    raise no_context(name, error, self._timeout_s, others) from error
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _evict(self) -> None:
        if self._drain:
            self.close()
        else:
            self._end_oldest()

    def _end_oldest(self) -> None:
        _, launcher = self._live.popitem(last=False)
        launcher.close()
