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

from whisper_npu.backends.npu.device import Buffer, Device, DeviceError, Kernel, KernelLied
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

# What outputs are filled with before a launch: a value that stays is one that was never written.
CANARY = 0xA5
_TIMED = 15

Array = NDArray[Any]


def verify(
    device: Device, entry: KernelEntry, others: Sequence[KernelEntry] = (), seed: int = 0
) -> NpuEvidence:
    """Run all cases on the device; between them, launches of ``others``.

    Outputs must be equal to the model's, floats within a bound. A kernel that fails, or a device,
    gives evidence of that; only a kernel that cannot be tried (no model, no files) raises
    KernelError.
    """
    contract = entry.contract
    family, rng = family_of(entry), np.random.default_rng(seed)
    cases = list(family.cases(rng))
    launches, worst, failure = 0, 0.0, None
    timing = Timing(None, None, None)
    try:
        with ExitStack() as opened:
            kernel = device.open(entry)
            opened.callback(kernel.close)
            distractions = list(_distractions(device, others, rng, opened))
            for case in cases:
                for _ in range(REPEATS):
                    launches += 1
                    error = _run(kernel, case)
                    worst = max(worst, error)
                    if error > case.allowed:
                        raise KernelLied(case.complaint(error))
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
        cases=len(cases),
        launches=launches,
        worst_error=worst,
        failure=failure,
        launch_seconds=timing.launch_seconds,
        rate=timing.rate,
        bytes_per_second=timing.bytes_per_second,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        producer=f"whisper-npu {__version__}",
    )


def _run(kernel: Kernel, case: LaunchCase) -> float:
    """The largest error of a launch. Raises KernelLied if an output was not written."""
    program = kernel.program(case.shape)
    contract = kernel.contract
    inputs = [
        _filled(kernel, argument.index, array)
        for argument, array in zip(contract.inputs, case.inputs, strict=True)
    ]
    outputs = []
    for argument, array in zip(contract.outputs, case.expected, strict=True):
        buffer = kernel.buffer(argument.index, array.nbytes)
        buffer.array[:] = CANARY
        buffer.to_device()
        outputs.append(buffer)
    kernel.launch(program, [*inputs, *outputs])
    worst = 0.0
    for buffer, expected in zip(outputs, case.expected, strict=True):
        buffer.from_device()
        found = buffer.array.view(expected.dtype).reshape(expected.shape)
        unwritten = expected.view(np.uint8) != CANARY
        if unwritten.any() and (buffer.array[unwritten.reshape(-1)] == CANARY).all():
            raise KernelLied(f"{case.name} {case.shape}: an output was not written")
        worst = max(worst, case.error(found, expected))
    return worst


def _filled(kernel: Kernel, argument: int, array: Array) -> Buffer:
    buffer = kernel.buffer(argument, array.nbytes)
    buffer.array[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    buffer.to_device()
    return buffer


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
        yield partial(_distract, kernel, next(family_of(entry).cases(rng)))


def _distract(kernel: Kernel, case: LaunchCase) -> None:
    # Whether this kernel does well is not the question.
    with suppress(DeviceError):
        _run(kernel, case)


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
