"""Verification: a kernel on this device against its NumPy model, on inputs made to break it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_npu.backends.npu.device import (
    CANARY,
    Buffer,
    Device,
    DeviceError,
    Kernel,
    KernelLied,
    NoContext,
    Program,
)
from whisper_npu.backends.npu.families import family_of
from whisper_npu.backends.npu.families.family import Timed
from whisper_npu.backends.npu.kernel_evidence import (
    NpuEvidence,
    contract_hash,
    evidence_key,
    file_hashes,
)
from whisper_npu.backends.npu.launch_case import REPEATS, LaunchCase
from whisper_npu.backends.npu.registry import KernelEntry
from whisper_npu.errors import KernelError
from whisper_npu.version import __version__

_TIMED = 15
# Launches in kept buffers, and after how many of them one of another kernel comes.
PRODUCTION = 1000
_DISTRACTED = 20

Array = NDArray[Any]


def verify(
    device: Device,
    entry: KernelEntry,
    others: Sequence[KernelEntry] = (),
    seed: int = 0,
) -> NpuEvidence:
    """Run all cases on the device; between them, launches of ``others``. Then come ``PRODUCTION``
    launches in kept buffers, in two contexts by turns if the device has two.

    Outputs must be equal to the model's, floats within a bound. A kernel that fails, or a device,
    gives evidence of that; only a kernel that cannot be tried (no model, no files) raises
    KernelError.
    """
    contract = entry.contract
    family, rng = family_of(entry), np.random.default_rng(seed)
    tried = _Tried()
    failure = None
    timing = Timing(None, None, None)
    try:
        with ExitStack() as opened:
            kernel = device.open(entry)
            opened.callback(kernel.close)
            distractions = list(_distractions(device, others, rng, opened))
            context = _Context(kernel)
            for case in family.cases(rng):
                tried.cases += 1
                for _ in range(REPEATS):
                    tried.run(context, case)
                for distraction in distractions:
                    distraction()
            contexts = [context, *_second(device, entry, opened)]
            for i, case in enumerate(family.production(rng, PRODUCTION)):
                tried.cases += 1
                tried.run(contexts[i % len(contexts)], case)
                if i % _DISTRACTED == 0:
                    for distraction in distractions:
                        distraction()
            timing = _time(kernel, family.timed())
    except DeviceError as error:
        failure = str(error)
    return NpuEvidence(
        key=evidence_key(device.identity, entry),
        kernel=contract.name,
        device=asdict(device.identity),
        files=file_hashes(entry),
        contract=contract_hash(entry),
        cases=tried.cases,
        launches=tried.launches,
        worst_error=tried.worst,
        failure=failure,
        launch_seconds=timing.launch_seconds,
        rate=timing.rate,
        bytes_per_second=timing.bytes_per_second,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        producer=f"whisper-npu {__version__}",
    )


class _Context:
    """A kernel in a context, with the buffers that its launches keep."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._kept: dict[tuple[int, str], Buffer] = {}
        self._programs: dict[tuple[int, ...], Program] = {}

    def program(self, shape: tuple[int, ...]) -> Program:
        if shape not in self._programs:
            self._programs[shape] = self.kernel.program(shape)
        return self._programs[shape]

    def buffers(self, case: LaunchCase) -> tuple[list[Buffer], list[Buffer]]:
        """Those of inputs, filled, and of outputs. New ones have a pattern that is to be
        overwritten; kept ones hold the data of the last launch."""
        contract = self.kernel.contract
        arguments = (*contract.inputs, *contract.outputs)
        names = case.kept or (None,) * len(arguments)
        found = []
        for argument, name, array in zip(
            arguments, names, (*case.inputs, *case.expected), strict=True
        ):
            found.append(self._buffer(argument.index, name, array.nbytes))
        n_inputs = len(contract.inputs)
        for buffer, array in zip(found, case.inputs, strict=False):
            content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            # Weights that lie there are not written again.
            if not np.array_equal(buffer.array, content):
                buffer.array[:] = content
                buffer.to_device()
        return found[:n_inputs], found[n_inputs:]

    def _buffer(self, argument: int, name: str | None, nbytes: int) -> Buffer:
        if name is not None and (argument, name) in self._kept:
            return self._kept[argument, name]
        buffer = self.kernel.buffer(argument, nbytes)
        buffer.array[:] = CANARY
        buffer.to_device()
        if name is not None:
            self._kept[argument, name] = buffer
        return buffer


@dataclass
class _Tried:
    """Counts of cases and launches so far, and the largest error of an output."""

    cases: int = 0
    launches: int = 0
    worst: float = 0.0

    def run(self, context: _Context, case: LaunchCase) -> None:
        """Raises KernelLied for an error that is too large, and for outputs not written."""
        self.launches += 1
        error = _run(context, case)
        self.worst = max(self.worst, error)
        if error > case.allowed:
            raise KernelLied(case.complaint(error))


def _second(device: Device, entry: KernelEntry, opened: ExitStack) -> Iterator[_Context]:
    """Another context of the kernel, if there is one to be had."""
    try:
        kernel = device.open(entry)
    except NoContext:
        return
    opened.callback(kernel.close)
    yield _Context(kernel)


def _run(context: _Context, case: LaunchCase) -> float:
    """The largest error of a launch. Raises KernelLied if an output was not written."""
    program = context.program(case.shape)
    inputs, outputs = context.buffers(case)
    context.kernel.launch(program, [*inputs, *outputs])
    worst = 0.0
    for buffer, expected in zip(outputs, case.expected, strict=True):
        buffer.from_device()
        found = buffer.array.view(expected.dtype).reshape(expected.shape)
        unwritten = expected.view(np.uint8) != CANARY
        if unwritten.any() and (buffer.array[unwritten.reshape(-1)] == CANARY).all():
            raise KernelLied(f"{case.name} {case.shape}: an output was not written")
        worst = max(worst, case.error(found, expected))
    return worst


def _distractions(
    device: Device, others: Sequence[KernelEntry], rng: np.random.Generator, opened: ExitStack
) -> Iterator[Callable[[], object]]:
    """Launches of other kernels, which must not disturb the one that is verified."""
    for entry in others:
        try:
            kernel = device.open(entry)
        except KernelError:
            # Its files are not there, say: that is not this kernel's fault.
            continue
        opened.callback(kernel.close)
        yield partial(_distract, _Context(kernel), next(family_of(entry).cases(rng)))


def _distract(context: _Context, case: LaunchCase) -> None:
    # Whether this kernel does well is not the question.
    with suppress(DeviceError):
        _run(context, case)


@dataclass(frozen=True)
class Timing:
    """Medians; see ``NpuEvidence``."""

    launch_seconds: float | None
    rate: float | None
    bytes_per_second: float | None


def _time(kernel: Kernel, timed: Sequence[Timed]) -> Timing:
    small, large = timed[0], timed[-1]
    overhead, buffers = _time_launches(kernel, small)
    rate = None
    if large is not small:
        seconds, buffers = _time_launches(kernel, large)
        # A difference within the noise says nothing about the rate.
        if seconds > 1.2 * overhead:
            rate = (large.operations - small.operations) / (seconds - overhead)
    return Timing(overhead, rate, _time_copies(buffers))


def _time_launches(kernel: Kernel, timed: Timed) -> tuple[float, list[Buffer]]:
    program, contract = kernel.program(timed.shape), kernel.contract
    arguments = (*contract.inputs, *contract.outputs)
    buffers = [
        kernel.buffer(argument.index, nbytes)
        for argument, nbytes in zip(arguments, timed.sizes, strict=True)
    ]
    return _median(lambda: kernel.launch(program, buffers)), buffers


def _time_copies(buffers: Sequence[Buffer]) -> float:
    """Bytes per second of writing a buffer and synchronising it."""
    largest = max(buffers, key=lambda buffer: buffer.array.nbytes)
    data = largest.array.copy()

    def copy() -> None:
        largest.array[:] = data
        largest.to_device()

    return float(data.nbytes / _median(copy))


def _median(action: Callable[[], None]) -> float:
    times = []
    for _ in range(_TIMED):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return statistics.median(times)
