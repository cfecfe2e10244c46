"""What is not used any more: ops that failed, kernels that lied or do not open, a lost device."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from whisper_npu.backends.npu.device import DeviceLost, KernelLied, NoContext
from whisper_npu.errors import KernelError
from whisper_npu.model.graph import Op
from whisper_npu.results import Fallback
from whisper_npu.runtime.usage import Usage

log = logging.getLogger("whisper_npu")


class Trust:
    """Remembers what failed, and records each op that fell back in ``usage``, once.

    A kernel found to lie is not used again, nor is one for which there was no context: each op of
    it would wait for one as long.
    """

    def __init__(self, usage: Usage) -> None:
        self._usage = usage
        # As messages and types alone: an error that was raised keeps the arrays of its frames.
        self._unusable: dict[str, tuple[type[KernelError], str]] = {}
        self._lost: tuple[type[KernelError], str] | None = None
        # Plans come and go with the lengths of prompts; an op that failed in one has failed.
        self._failed: dict[tuple[str, str], str] = {}
        # Kernels, and "" for the device, whose end was logged.
        self._logged: set[str] = set()

    def check(self, kernel: str) -> None:
        """Raises what ended the use of the device, or of this kernel."""
        ended = self._lost or self._unusable.get(kernel)
        if ended is not None:
            error, message = ended
            raise error(message)

    def failed(self, phase: str, ops: Iterable[Op]) -> str | None:
        """Why one of these ops is not launched any more, None if all are."""
        found = (self._failed.get((phase, op.name)) for op in ops)
        return next((why for why in found if why is not None), None)

    @contextmanager
    def noting(self, kernel: str) -> Iterator[None]:
        """Draw the consequences of an error that is raised within, for kernel and device."""
        try:
            yield
        except KernelError as error:
            self._note(kernel, error)
            raise

    def _note(self, kernel: str, error: KernelError) -> None:
        ended = type(error), str(error)
        if isinstance(error, (KernelLied, NoContext)):
            self._unusable.setdefault(kernel, ended)
        if isinstance(error, DeviceLost):
            self._lost = self._lost or ended

    def fall_back(self, phase: str, ops: Iterable[Op], kernel: str, error: KernelError) -> None:
        """Have ops not launched any more, record it and log a line."""
        self._note(kernel, error)
        for op in ops:
            if (phase, op.name) not in self._failed:
                self._failed[phase, op.name] = str(error)
                event = Fallback(phase, op.name, kernel, error.reason, str(error))
                self._usage.fallbacks.append(event)
                level = logging.INFO if self._is_known(kernel, error) else logging.WARNING
                log.log(level, "%s: %s on NumPy from now on: %s", phase, op.name, event.detail)

    def _is_known(self, kernel: str, error: KernelError) -> bool:
        """A line for what ends the use of a kernel, not for each of its ops."""
        if not isinstance(error, (DeviceLost, KernelLied, NoContext)):
            return False
        ended = "" if isinstance(error, DeviceLost) else kernel
        known = ended in self._logged
        self._logged.add(ended)
        return known

    def give_up(self, error: DeviceLost) -> None:
        """Use nothing of the device any more."""
        self._note("", error)
