"""One launch after the other with one run object: arguments, start, wait.

Never waits inside of XRT: ``run.wait()`` holds the GIL, does not keep its time limit and is not to
be interrupted. The run's state is in shared memory and costs half a microsecond to read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from whisper_npu.backends.npu.device import LaunchFailed
from whisper_npu.backends.npu.xrt.lifetime import keep_for_ever, track
from whisper_npu.backends.npu.xrt.pyxrt_errors import PYXRT_ERRORS, not_started, text

# "Transaction": the instructions are register writes that the NPU's controller carries out.
TRANSACTION = 3

COMPLETED = 4
TIMEOUT = 8
# COMPLETED, ERROR, ABORT, TIMEOUT, NORESPONSE, SKERROR, SKCRASHED. The other states are NEW 1 (a
# running kernel's too), QUEUED 2, RUNNING 3 and SUBMITTED 7.
FINAL = frozenset((COMPLETED, 5, 6, TIMEOUT, 9, 10, 11))

# The shortest kernels take about 0.1 ms. After that, sleeps of an eighth of the time that has
# passed add at most so much to it, and leave the processor to others.
_SPIN_S = 150e-6
_SHORTEST_SLEEP_S = 50e-6
_LONGEST_SLEEP_S = 500e-6

# More between two polls is time in which the program was stopped: by Ctrl-Z, a debugger, a host
# that suspended its guest. The driver may have been stopped with it.
_LONGEST_GAP_S = 1.0

# How long an interrupted program waits for the launch under way before it gives the context up.
_GRACE_S = 1.0


class NotOver(Exception):
    """A launch was not over at its deadline."""


class Launcher:
    """A kernel in a hardware context of its own, with its one run object.

    After any exception from ``launch`` it is of no more use: the packet of a failed launch is
    overwritten, and the array may be left half configured, which only a new context mends. If it is
    ``hung``, the device may still read and write what is bound, and nothing of it is ever freed.
    """

    def __init__(self, pyxrt: Any, device: Any, uuid: Any, kernel: str, name: str) -> None:
        self._name = name
        self._context: Any = None
        self._kernel: Any = None
        self._run: Any = None
        # Value and owner of arguments 1, 2, ...: what is bound stays alive.
        self._bound: list[tuple[Any, object]] = []
        self.hung = False
        try:
            self._context = track(pyxrt.hw_context(device, uuid))
            self._kernel = track(pyxrt.kernel(self._context, kernel))
            self._run = track(pyxrt.run(self._kernel))
            self._run.set_arg(0, TRANSACTION)
        except BaseException:
            self.close()
            raise

    def groups(self, arguments: Iterable[int]) -> dict[int, int]:
        """The memory groups of arguments that are buffers."""
        return {i: self._kernel.group_id(i) for i in arguments}

    def launch(self, arguments: Sequence[tuple[Any, object]], timeout_s: float) -> None:
        """Run with (value, owner) as arguments 1, 2, ..., and wait for the end.

        Raises LaunchFailed, DeviceLost, and NotOver after ``timeout_s`` seconds.
        """
        self._bind(arguments)
        try:
            self._run.start()
            state = wait(self._state, timeout_s)
        except PYXRT_ERRORS as error:
            raise not_started(self._name, error) from error
        except BaseException:
            # Ctrl-C: what is under way has to end before its buffers may be used again.
            self._settle()
            raise
        if state not in FINAL:
            self._keep()
            raise NotOver
        if state != COMPLETED:
            raise LaunchFailed(f"kernel {self._name}: {_ended(self._run.state(), state)}")

    def close(self) -> None:
        """End the context.

        Tracebacks of exceptions that somebody keeps refer to this object, so no frame of it has
        its parts in variables.
        """
        self._bound.clear()
        self._run = self._kernel = self._context = None

    def _bind(self, arguments: Sequence[tuple[Any, object]]) -> None:
        bound = self._bound
        if not bound:
            bound.extend([(None, None)] * len(arguments))
        for i, argument in enumerate(arguments):
            if bound[i][0] is argument[0]:
                continue
            try:
                self._run.set_arg(i + 1, argument[0])
            except PYXRT_ERRORS as error:
                raise LaunchFailed(
                    f"kernel {self._name}: XRT does not take argument {i + 1} ({text(error)})"
                ) from error
            bound[i] = argument

    def _settle(self) -> None:
        try:
            over = wait(self._state, _GRACE_S) in FINAL
        except BaseException:
            self._keep()
            raise
        if not over:
            self._keep()

    def _state(self) -> int:
        return int(self._run.state())

    def _keep(self) -> None:
        # To drop a run that is not over aborts the process.
        self.hung = True
        keep_for_ever(self)


def wait(state: Callable[[], int], timeout_s: float) -> int:
    """Poll until the state is final or the time is up. Gives the last state.

    Time in which this program did not run at all (it was stopped, say) is not counted.
    """
    clock = time.perf_counter
    before = clock()
    elapsed = 0.0
    while (now := state()) not in FINAL:
        here = clock()
        elapsed += min(here - before, _LONGEST_GAP_S)
        before = here
        if elapsed > timeout_s:
            break
        if elapsed > _SPIN_S:
            time.sleep(min(max(elapsed / 8, _SHORTEST_SLEEP_S), _LONGEST_SLEEP_S))
    return now


def _ended(state: Any, number: int) -> str:
    if number == TIMEOUT:
        return f"the driver ended the launch, which took too long ({state.name})"
    return f"the launch ended as {state.name}; do xclbin, instructions and buffers fit each other?"
