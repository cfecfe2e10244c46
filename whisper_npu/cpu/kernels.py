"""Running ops on the CPU kernels that are verified on this processor, all others on NumPy."""

from __future__ import annotations

import ctypes
import logging
from functools import lru_cache
from pathlib import Path

from whisper_npu.cpu.bind import BINDERS, Place
from whisper_npu.cpu.build import find_build
from whisper_npu.cpu.evidence import CpuEvidence, find_evidence, library_hash
from whisper_npu.cpu.library import Library, Scratch, default_threads
from whisper_npu.errors import KernelError
from whisper_npu.model.graph import Graph
from whisper_npu.results import Fallback
from whisper_npu.runtime.numpy_ops import Bound, Step
from whisper_npu.runtime.usage import Usage

log = logging.getLogger("whisper_npu")


def kernel_name(kind: str) -> str:
    """The kernel for a kind of op, as the registry has it and as the library's function."""
    return f"cpu_{kind}"


# Loaded once: the library's threads and instruction set are those of the process.
load_library = lru_cache(maxsize=4)(Library)


class CpuKernels:
    """The kernels of one library for the plans of one model.

    ``kinds`` are the kinds of op that they are used for.
    """

    def __init__(self, library: Library, kinds: frozenset[str], usage: Usage) -> None:
        self.kinds, self.usage = kinds, usage
        self._place = Place(library, Scratch(library.threads))
        # Plans come and go; an op that failed in one has failed.
        self._failed: set[tuple[str, str]] = set()

    def bind(self, graph: Graph, bound: Bound, numpy: Step) -> Step:
        """The step that runs an op: on its kernel, or ``numpy``, which is its other choice."""
        op = bound.op
        if op.kind not in self.kinds or (graph.name, op.name) in self._failed:
            return numpy
        args = BINDERS[op.kind](self._place, bound)
        if args is None:
            return numpy
        name = kernel_name(op.kind)
        function = self._place.library.function(name)
        address = ctypes.addressof(args)
        counts, key = self.usage.kernel_ops, (op.kind, name)

        def step() -> None:
            if function(address) == 0:
                counts[key] += 1
            else:
                self._fall_back(graph.name, bound, args)
                numpy()

        return step

    def _fall_back(self, phase: str, bound: Bound, args: ctypes.Structure) -> None:
        op, name = bound.op, kernel_name(bound.op.kind)
        if (phase, op.name) in self._failed:
            return
        self._failed.add((phase, op.name))
        event = Fallback(phase, op.name, name, "kernel", f"{name} did not take {type(args)}")
        self.usage.fallbacks.append(event)
        log.warning("%s: %s on NumPy from now on: %s", phase, op.name, event.detail)


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
    library.threads = default_threads()
    return CpuKernels(library, kinds, usage)


def cpu_kernel_evidence() -> dict[str, CpuEvidence] | None:
    """What is known here of each kernel by name; None if there is no library."""
    build = find_build()
    if build is None:
        return None
    library = load_library(build.path)
    return find_evidence(library_hash(build.path), library.cpu, library.isa)
