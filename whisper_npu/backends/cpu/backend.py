"""The CPU kernels as a backend: regions on the kernels that are verified on this processor."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from whisper_npu.backends.cpu.build import find_builds, why_no_build
from whisper_npu.backends.cpu.first_use import require_evidence
from whisper_npu.backends.cpu.kernels import KERNELS
from whisper_npu.backends.cpu.library import (
    CpuFunction,
    Library,
    Scratch,
    open_first,
    switched_off,
)
from whisper_npu.backends.cpu.records import CpuKernel, Ops, Place
from whisper_npu.backends.numpy.specification import specify
from whisper_npu.errors import KernelError
from whisper_npu.model.graph import Graph
from whisper_npu.results import Fallback
from whisper_npu.runtime.backend import Backend, Bound, Offer, Refusal, Step, function_of
from whisper_npu.runtime.usage import Usage
from whisper_npu.runtime.workers import kernel_threads

log = logging.getLogger("whisper_npu")

# Steps of one call: an interrupt waits for its end, a quarter of a second in the encoder of the
# largest model.
_LONGEST_RUN = 32


class KernelStep:
    """A step that runs a region on its kernel; ``specified`` if that does not take its arguments.

    ``refused`` is told each time that it falls back.
    """

    def __init__(
        self,
        kernel: CpuFunction,
        args: ctypes.Structure,
        refused: Callable[[], None],
        specified: Step,
    ) -> None:
        self.kernel: Any = kernel
        self.args, self._address = args, ctypes.addressof(args)
        self._refused, self._specified, self._fell_back = refused, specified, False

    def __call__(self) -> None:
        if self.kernel(self._address) != 0:
            self.instead()

    def instead(self) -> None:
        """Run the specification, as the kernel has refused."""
        self._fell_back = True
        self._refused()
        self._specified()

    @property
    def function(self) -> str:
        """The function of the library that is called, or what is called in its place since it
        refused."""
        return function_of(self._specified) if self._fell_back else str(self.kernel.__name__)


class KernelRun:
    """Several such steps as one call."""

    def __init__(self, library: Library, steps: Sequence[KernelStep]) -> None:
        self._run, self._steps = library.run, steps
        call = library.structure("Call")
        calls = [
            call(ctypes.cast(step.kernel, ctypes.c_void_p), ctypes.addressof(step.args))
            for step in steps
        ]
        self._calls = (call * len(calls))(*calls)
        self._address = ctypes.addressof(self._calls)

    def __call__(self) -> None:
        done = self._run(self._address, 0, len(self._steps))
        while done < len(self._steps):
            self._steps[done].instead()
            done = self._run(self._address, done + 1, len(self._steps))


@dataclass(frozen=True)
class UsableKernels:
    """A loaded library with those of its kernels that are verified on this processor.

    Those in ``failed`` failed verification; kernels in neither were not verified.
    """

    library: Library
    kernels: tuple[CpuKernel, ...]
    failed: tuple[CpuKernel, ...] = ()


class CpuBackend(Backend):
    """The kernels of one library for the plans of one model.

    Ops of kernels that are not verified are refused. Raises KernelError for a record that does not
    fit the library.
    """

    name = "cpu"

    def __init__(self, usable: UsableKernels, usage: Usage) -> None:
        library, self.kernels, self.usage = usable.library, usable.kernels, usage
        library.threads = kernel_threads()
        # INT8 models have kernels for all ops; in others NumPy's threads want the processor in
        # between.
        library.stay_awake(usage.precision == "int8")
        self._place = Place(library, Scratch(library))
        self._unusable: dict[CpuKernel, str] = {}
        for kernel in KERNELS:
            if kernel not in usable.kernels:
                unverified = "is not verified on this processor"
                state = "failed verification" if kernel in usable.failed else unverified
                self._unusable[kernel] = f"{kernel.name} {state}"
        # By the kind of the first op, in the order in which they are asked.
        self._by_kind: dict[str, list[CpuKernel]] = {}
        known = dict.fromkeys((*KERNELS, *usable.kernels))
        for kernel in sorted(known, key=lambda kernel: -len(kernel.kinds)):
            kernel.check(library.api)
            self._by_kind.setdefault(kernel.kinds[0], []).append(kernel)
        # Plans come and go; an op that failed in one has failed. Why, by phase and op.
        self._failed: dict[tuple[str, str], str] = {}

    def offer(self, graph: Graph, index: int) -> Offer | Refusal:
        kind = graph.ops[index].kind
        reasons: list[str] = []
        for kernel in self._by_kind.get(kind, ()):
            ops = kernel.region(graph, index)
            if ops is None:
                continue
            reason = self._objection(kernel, graph, ops)
            if reason is None:
                return Offer(
                    backend=self.name,
                    kernel=kernel.name,
                    function=kernel.name,
                    ops=ops,
                    bind=partial(self._bind, kernel, graph.name, ops),
                    forms=kernel.forms(ops),
                    in_place=kernel.in_place,
                    note="verified on this CPU",
                )
            reasons.append(reason)
        why = "; ".join(dict.fromkeys(reasons)) or f"there is no kernel for {kind}"
        return Refusal(self.name, why)

    def _objection(self, kernel: CpuKernel, graph: Graph, ops: Ops) -> str | None:
        for op in ops:
            if (graph.name, op.name) in self._failed:
                return self._failed[graph.name, op.name]
        return self._unusable.get(kernel) or kernel.objection(graph, ops)

    def _bind(self, kernel: CpuKernel, phase: str, ops: Ops, bound: Bound) -> Step:
        """Raises ValueError if the arrays do not lie as the offer wants them."""
        return KernelStep(
            self._place.library.function(kernel.name),
            kernel.bind(self._place, bound),
            partial(self._fall_back, kernel, phase, ops),
            specify(bound),
        )

    def join(self, steps: Sequence[Step]) -> list[Step]:
        """The same steps with those on kernels that follow each other as one call of the library.

        Between two calls from Python a kernel of a few microseconds could have run.
        """
        joined: list[Step] = []
        run: list[KernelStep] = []
        for step in (*steps, None):
            if run and (not isinstance(step, KernelStep) or len(run) == _LONGEST_RUN):
                joined.append(KernelRun(self._place.library, run))
                run = []
            if isinstance(step, KernelStep):
                run.append(step)
            elif step is not None:
                joined.append(step)
        return joined

    def _fall_back(self, kernel: CpuKernel, phase: str, ops: Ops) -> None:
        for op in ops:
            self.usage.fell_back(op.kind, kernel.name)
            if (phase, op.name) not in self._failed:
                detail = f"{kernel.name} did not take its {kernel.structure}"
                self._failed[phase, op.name] = detail
                event = Fallback(phase, op.name, kernel.name, "kernel", detail)
                self.usage.fallbacks.append(event)
                log.warning("%s: %s on NumPy from now on: %s", phase, op.name, detail)


def usable_kernels() -> UsableKernels | str:
    """The library for this CPU, loaded, with its verified kernels; or in one line why there are
    none, and what to do.

    Kernels that there is no evidence of are verified now.
    """
    off = switched_off()
    if off is not None:
        return off
    try:
        opened = open_first(find_builds())
    except KernelError as error:
        log.warning("no CPU kernels: %s", error)
        return f"CPU kernels cannot be loaded: {error}"
    if opened is None:
        return why_no_build()
    build, library = opened
    evidence = require_evidence(library, build)
    known = [kernel for kernel in KERNELS if kernel.name in evidence]
    passed = tuple(kernel for kernel in known if evidence[kernel.name].passed)
    if not passed:
        return "CPU kernels failed verification, all of them"
    return UsableKernels(library, passed, tuple(kernel for kernel in known if kernel not in passed))
