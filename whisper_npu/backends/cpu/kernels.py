"""Running ops on the CPU kernels that are verified on this processor, all others on NumPy."""

from __future__ import annotations

import ctypes
import logging
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from whisper_npu.backends.cpu.bind import BINDERS, Place
from whisper_npu.backends.cpu.build import find_build
from whisper_npu.backends.cpu.evidence import CpuEvidence, find_evidence, library_hash
from whisper_npu.backends.cpu.library import Call, Function, Library, Scratch
from whisper_npu.backends.numpy.specification import Bound, Step
from whisper_npu.errors import KernelError
from whisper_npu.model.graph import Graph
from whisper_npu.results import Fallback
from whisper_npu.runtime.usage import Usage
from whisper_npu.runtime.workers import kernel_threads

log = logging.getLogger("whisper_npu")

# Steps of one call: an interrupt waits for its end, a quarter of a second in the encoder of the
# largest model.
_LONGEST_RUN = 32
# Kernels that do what others do in integers, faster.
_IN_INTEGERS = {"attention": "attention_int16"}


def kernel_name(kind: str) -> str:
    """The kernel for a kind of op, as the registry has it and as the library's function."""
    return f"cpu_{kind}"


# Loaded once: the library's threads and instruction set are those of the process.
load_library = lru_cache(maxsize=4)(Library)


class KernelStep:
    """A step that runs an op on its kernel; ``instead`` if that does not take its arguments."""

    def __init__(
        self,
        function: Function,
        args: ctypes.Structure,
        key: tuple[str, str],
        usage: Usage,
        instead: Step,
    ) -> None:
        self.function, self.args, self.key, self.instead = function, args, key, instead
        self._address, self._counts = ctypes.addressof(args), usage.kernel_ops

    def __call__(self) -> None:
        if self.function(self._address) == 0:
            self._counts[self.key] += 1
        else:
            self.instead()


class KernelRun:
    """Several such steps as one call."""

    def __init__(self, library: Library, steps: Sequence[KernelStep], usage: Usage) -> None:
        self._run, self._steps, self._counts = library.run, steps, usage.kernel_ops
        functions: list[Any] = [step.function for step in steps]
        calls = [
            Call(ctypes.cast(function, ctypes.c_void_p), ctypes.addressof(step.args))
            for function, step in zip(functions, steps, strict=True)
        ]
        self._calls = (Call * len(calls))(*calls)
        self._address = ctypes.addressof(self._calls)
        self._keys = Counter(step.key for step in steps)

    def __call__(self) -> None:
        done = self._run(self._address, 0, len(self._steps))
        for key, count in self._keys.items():
            self._counts[key] += count
        while done < len(self._steps):
            step = self._steps[done]
            self._counts[step.key] -= 1
            step.instead()
            done = self._run(self._address, done + 1, len(self._steps))


class CpuKernels:
    """The kernels of one library for the plans of one model.

    ``kinds`` are those that are used, by the kind of op or the name in ``BINDERS``.
    """

    def __init__(self, library: Library, kinds: frozenset[str], usage: Usage) -> None:
        self.kinds, self.usage = kinds, usage
        self._place = Place(library, Scratch(library.threads))
        # Plans come and go; an op that failed in one has failed.
        self._failed: set[tuple[str, str]] = set()

    @property
    def names(self) -> dict[str, str]:
        """The kernel for each kind of op that there is one for."""
        rounded = set(_IN_INTEGERS.values())
        return {kind: kernel_name(self._choose(kind)) for kind in sorted(self.kinds - rounded)}

    @property
    def isa(self) -> str:
        """The instruction set that the kernels use."""
        return self._place.library.isa

    @property
    def reads_bytes(self) -> bool:
        """Whether quantised cross keys and values are to be kept as int8."""
        return {"quantize_heads", "cross_attention_int8"} <= self.kinds

    def _choose(self, kind: str) -> str:
        """The kernel for a kind of op. Only INT8 models get one that rounds more than float32."""
        rounded = _IN_INTEGERS.get(kind, kind)
        return rounded if self.usage.precision == "int8" and rounded in self.kinds else kind

    def bind(self, graph: Graph, bound: Bound, numpy: Step) -> Step:
        """The step that runs an op: on its kernel, or ``numpy``, which is its other choice."""
        op = bound.op
        kind = self._choose(op.kind)
        if kind not in self.kinds or (graph.name, op.name) in self._failed:
            return numpy
        args = BINDERS[kind](self._place, bound)
        if args is None:
            return numpy
        name = kernel_name(kind)
        function = self._place.library.function(name)

        def instead() -> None:
            self._fall_back(graph.name, op.name, name, args)
            numpy()

        return KernelStep(function, args, (op.kind, name), self.usage, instead)

    def join(self, steps: Sequence[Step]) -> list[Step]:
        """The same steps with those on kernels that follow each other as one call of the library.

        Between two calls from Python a kernel of a few microseconds could have run.
        """
        joined: list[Step] = []
        run: list[KernelStep] = []
        for step in (*steps, None):
            if run and (not isinstance(step, KernelStep) or len(run) == _LONGEST_RUN):
                joined.append(KernelRun(self._place.library, run, self.usage))
                run = []
            if isinstance(step, KernelStep):
                run.append(step)
            elif step is not None:
                joined.append(step)
        return joined

    def _fall_back(self, phase: str, op: str, name: str, args: ctypes.Structure) -> None:
        if (phase, op) in self._failed:
            return
        self._failed.add((phase, op))
        event = Fallback(phase, op, name, "kernel", f"{name} did not take {type(args)}")
        self.usage.fallbacks.append(event)
        log.warning("%s: %s on NumPy from now on: %s", phase, op, event.detail)


def open_cpu_kernels(usage: Usage, required: bool = False) -> CpuKernels | None:
    """The verified kernels of the library that was built; None if there are none.

    Raises KernelError instead if they are ``required``.
    """
    build = find_build()
    found = None if build is None else _open(build.path, usage)
    if found is None and required:
        state = "not built" if build is None else "not verified on this processor"
        raise KernelError(f"CPU kernels are {state}: run whisper-npu kernels build")
    return found


def _open(path: Path, usage: Usage) -> CpuKernels | None:
    try:
        library = load_library(path)
    except KernelError as error:
        log.warning("no CPU kernels: %s", error)
        return None
    evidence = find_evidence(library_hash(path), library.cpu, library.isa)
    kinds = frozenset(
        kind for kind in BINDERS if (e := evidence.get(kernel_name(kind))) is not None and e.passed
    )
    if not kinds:
        return None
    library.threads = kernel_threads()
    # INT8 models have kernels for all ops; in others NumPy's threads want the processor in between.
    library.stay_awake(usage.precision == "int8")
    return CpuKernels(library, kinds, usage)


def cpu_kernel_evidence() -> dict[str, CpuEvidence] | None:
    """What is known here of each kernel by name; None if there is no library."""
    build = find_build()
    if build is None:
        return None
    library = load_library(build.path)
    return find_evidence(library_hash(build.path), library.cpu, library.isa)
