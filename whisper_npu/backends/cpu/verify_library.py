"""Verification: every CPU kernel against the NumPy ops that specify it, on nasty inputs.

Each instruction set of the processor is verified, with one thread and with several. Integers and
what follows from them without a choice must be equal to the bit; other floats may differ from the
specification by a bound that is part of the kernel's record.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import NamedTuple

import numpy as np

from whisper_npu.backends.cpu.kernels import KERNELS
from whisper_npu.backends.cpu.library import Library, Scratch
from whisper_npu.backends.cpu.library_evidence import CpuEvidence
from whisper_npu.backends.cpu.op_case import OpCase
from whisper_npu.backends.cpu.records import CpuKernel, Place
from whisper_npu.backends.numpy.specification import specify
from whisper_npu.runtime.backend import Array
from whisper_npu.runtime.workers import find_blas
from whisper_npu.version import __version__

# What memory is filled with around outputs, and outputs before a call.
CANARY = 0xA5
# Bytes on both sides of an array.
_MARGIN = 256
_THREADS = (1, 3)


def span(array: Array) -> int:
    """The bytes from the first element of an array to the end of its last."""
    if array.size == 0:
        return 0
    last = sum((n - 1) * s for n, s in zip(array.shape, array.strides, strict=True))
    return int(last) + array.itemsize


class Guarded:
    """A copy of an array, with its strides, that has canary bytes on both sides.

    It lies ``beyond`` elements beyond a multiple of 64 bytes.
    """

    def __init__(self, content: Array, beyond: int = 0) -> None:
        used = span(content)
        self._memory = np.full(used + 2 * _MARGIN + 128, CANARY, np.uint8)
        offset = beyond * content.itemsize % 64
        self._start = _MARGIN + -self._memory.ctypes.data % 64 + offset
        self._stop = self._start + used
        self.array: Array = np.ndarray(
            content.shape, content.dtype, self._memory.data, self._start, content.strides
        )
        self.array[...] = content

    def is_intact(self) -> bool:
        """Whether nothing beside the array was written."""
        before, after = self._memory[: self._start], self._memory[self._stop :]
        return bool((before == CANARY).all() and (after == CANARY).all())


def verify_library(
    library: Library,
    sha256: str,
    isas: Sequence[str] | None = None,
    kernels: Sequence[CpuKernel] = KERNELS,
) -> list[CpuEvidence]:
    """Verify kernels of a library in some instruction sets, all that there are if not given.

    ``sha256`` is that of the library's file. Leaves the library with the instruction set and the
    threads that it had; no kernel may run meanwhile.
    """
    isa, threads = library.isa, library.threads
    found = []
    try:
        with _one_blas_thread():
            for each in library.isas if isas is None else isas:
                library.choose_isa(each)
                found += [_verify(library, kernel, sha256) for kernel in kernels]
    finally:
        library.choose_isa(isa)
        library.threads = threads
    return found


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Keep threads of OpenBLAS from waiting where those of the kernels are to run: all products of
    the specification are small, and verification takes a third of the time."""
    blas = find_blas()
    if blas is None:
        yield
        return
    threads, blas.threads = blas.threads, 1
    try:
        yield
    finally:
        blas.threads = threads


def _verify(library: Library, kernel: CpuKernel, sha256: str) -> CpuEvidence:
    count, worst, failure = 0, 0.0, None
    for case in kernel.cases(np.random.default_rng(0)):
        expected = expect(case)
        for threads in _THREADS:
            library.threads = threads
            count += 1
            # Where arrays lie within a cache line must not matter: each run has another place.
            failure, error = run_case(library, kernel, case, expected, beyond=count)
            worst = max(worst, error)
            if failure is not None:
                failure = f"{case.name}, {threads} threads: {failure}"
                break
        if failure is not None:
            break
    return CpuEvidence(
        library=sha256, cpu=library.cpu, isa=library.isa, kernel=kernel.name,
        cases=count, worst_error=worst, failure=failure,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        producer=f"whisper-npu {__version__}",
    )  # fmt: skip


class Expected(NamedTuple):
    """What a case must give: its outputs, and the largest error of every element of each."""

    outputs: tuple[Array, ...]
    allowed: Array | None


def expect(case: OpCase) -> Expected:
    """What the NumPy ops give, whatever the instruction set and the number of threads."""
    inputs = [array.copy() for array in case.inputs]
    outputs = tuple(
        np.empty_like(array) if place is None else inputs[place]
        for array, place in zip(case.outputs, _places(case), strict=True)
    )
    with np.errstate(all="ignore"):
        specify(case.bound(inputs, outputs))()
        return Expected(outputs, case.allowed())


def run_case(
    library: Library, kernel: CpuKernel, case: OpCase, expected: Expected | None = None,
    beyond: int = 0,
) -> tuple[str | None, float]:  # fmt: skip
    """What went wrong, if anything, and the largest error as a share of what is allowed.

    ``expected`` is that of ``expect``, which is called if it is not given. Arrays lie ``beyond``
    elements beyond a multiple of 64 bytes.
    """
    inputs = [Guarded(array, beyond) for array in case.inputs]
    # A cache is written where it lies: an input that is an output too.
    places = _places(case)
    outputs = [
        Guarded(_filled(array), beyond) if place is None else inputs[place]
        for array, place in zip(case.outputs, places, strict=True)
    ]
    place = Place(library, Scratch(library))
    try:
        args = kernel.bind(place, case.bound(_arrays(inputs), _arrays(outputs)))
    except ValueError as error:
        return str(error), 0.0
    if library.function(kernel.name)(ctypes.addressof(args)) != 0:
        return "did not take its arguments", 0.0
    if not all(guarded.is_intact() for guarded in (*inputs, *outputs)):
        return "wrote outside of an output", 0.0
    if any(
        not np.array_equal(guarded.array, array, equal_nan=array.dtype.kind == "f")
        for index, (guarded, array) in enumerate(zip(inputs, case.inputs, strict=True))
        if index not in places
    ):
        return "changed an input", 0.0
    if expected is None:
        expected = expect(case)
    return _compare(_arrays(outputs), expected.outputs, expected.allowed)


def _places(case: OpCase) -> list[int | None]:
    """Of each output, which input is this very array."""
    return [
        next((index for index, each in enumerate(case.inputs) if each is array), None)
        for array in case.outputs
    ]


def _compare(
    found: Iterable[Array],
    expected: Iterable[Array],
    allowed: Array | None,
) -> tuple[str | None, float]:
    worst = 0.0
    for mine, theirs in zip(found, expected, strict=True):
        if allowed is None or theirs.dtype.kind != "f":
            wrong = ~((mine == theirs) | ((mine != mine) & (theirs != theirs)))
            if wrong.any():
                return f"{int(wrong.sum())} of {wrong.size} values differ", float("inf")
            continue
        with np.errstate(invalid="ignore"):
            error = np.abs(mine.astype(np.float64) - theirs)
            same = (mine == theirs) | ((mine != mine) & (theirs != theirs))
            share = np.where(same, 0.0, error / allowed)
        largest = float(np.nan_to_num(share, nan=np.inf).max(initial=0.0))
        worst = max(worst, largest)
        if largest > 1:
            return f"errs by up to {largest:.3g} times what is allowed", worst
    return None, worst


def _filled(array: Array) -> Array:
    filled = np.empty_like(array)
    filled.reshape(-1).view(np.uint8)[:] = CANARY
    return filled


def _arrays(guarded: Iterable[Guarded]) -> tuple[Array, ...]:
    return tuple(each.array for each in guarded)
