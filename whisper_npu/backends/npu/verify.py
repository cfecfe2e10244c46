"""Verification: a kernel on this device against its NumPy model, on inputs made to break it."""

from __future__ import annotations

import math
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

from whisper_npu import __version__
from whisper_npu.backends.npu.adversarial import FLOATS, INTEGERS
from whisper_npu.backends.npu.contract import Argument
from whisper_npu.backends.npu.device import Buffer, Device, DeviceError, Kernel, KernelLied
from whisper_npu.backends.npu.evidence import Evidence, contract_hash, evidence_key, file_hashes
from whisper_npu.backends.npu.families.gemm import FIRST_BUFFER, GEMM_FAMILY
from whisper_npu.backends.npu.families.gemm_stream import gemm_int8_sizes
from whisper_npu.backends.npu.families.packing import GemmTile, pack_gemm_weights
from whisper_npu.backends.npu.models import BOUNDS, numpy_dtype, run_model
from whisper_npu.backends.npu.models.bfloat16 import rounded, widen
from whisper_npu.backends.npu.registry import Entry
from whisper_npu.errors import KernelError

# What outputs are filled with before a launch: a value that stays is one that was never written.
CANARY = 0xA5
# Every case is launched twice in a row, the second time over the outputs of other inputs.
REPEATS = 2
_TIMED = 15
# Tiles in each direction of a launch that is all overhead, and of one that is mostly work.
_TIMED_TILES = (1, 6)

# Outputs compared at least, so that a kernel that is wrong in one of 10^4 passes by chance once in
# e^10 times.
_OUTPUTS = 100_000

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """Inputs, the outputs that they must give, and the shape to launch with.

    Integers must be equal. Floats may differ by the share ``allowed`` of their ``magnitude``.
    """

    name: str
    shape: tuple[int, ...]
    inputs: tuple[Array, ...]
    expected: tuple[Array, ...]
    magnitude: Array | None = None
    allowed: float = 0.0

    def error(self, found: Array, expected: Array) -> float:
        """The largest difference of integers, or of floats as a share of their magnitude.

        Raises KernelLied for a float that is no number.
        """
        if self.magnitude is None:
            return float(np.abs(found.astype(np.float64) - expected).max())
        numbers = widen(found).astype(np.float64)
        if not np.isfinite(numbers).all():
            raise KernelLied(f"{self.name} {self.shape}: an output is not a finite number")
        difference = np.abs(numbers - widen(expected))
        nothing = (difference > 0).astype(np.float64)
        size = self.magnitude
        return float(np.divide(difference, size, out=nothing, where=size > 0).max())

    def complaint(self, error: float) -> str:
        """What is wrong with a kernel of this error."""
        differ = f"{self.name} {self.shape}: outputs differ by up to"
        if self.magnitude is None:
            return f"{differ} {error:g}"
        return f"{differ} {error:.2%} of their accumulated magnitude, {self.allowed:.2%} is allowed"


def verify(device: Device, entry: Entry, others: Sequence[Entry] = (), seed: int = 0) -> Evidence:
    """Run all cases on the device; between them, launches of ``others``.

    Outputs must be equal to the model's, floats within a bound. A kernel that fails, or a device,
    gives evidence of that; only a kernel that cannot be tried (no model, no files) raises
    KernelError.
    """
    contract = entry.contract
    rng = np.random.default_rng(seed)
    cases = list(_gemm_cases(entry, rng) if _is_gemm(entry) else _model_cases(entry, rng))
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
            timing = _time(kernel, entry)
    except DeviceError as error:
        failure = str(error)
    return Evidence(
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


def _is_gemm(entry: Entry) -> bool:
    return entry.contract.family == GEMM_FAMILY


def _gemm_cases(entry: Entry, rng: np.random.Generator) -> Iterator[Case]:
    tile = GemmTile(**entry.contract.tile)
    # One tile; several in every direction; the longest sums of any Whisper.
    for tiles in ((1, 1, 1), (2, 3, 2), (1, 80, 1), (3, 2, 5)):
        m, k, n = (count * size for count, size in zip(tiles, tile, strict=True))
        for name, make in INTEGERS.items():
            x, w = make(rng, "int8", (m, k)), make(rng, "int8", (n, k))
            sums = x.astype(np.int64) @ w.astype(np.int64).T
            inputs = (x, pack_gemm_weights(w, tile))
            yield Case(name, (m, k, n), inputs, (sums.astype(np.int32),))


def _model_cases(entry: Entry, rng: np.random.Generator) -> Iterator[Case]:
    contract = entry.contract
    buffers = [_described(argument) for argument in contract.inputs]
    outputs = sum(math.prod(_described(argument)[1]) for argument in contract.outputs)
    bound = BOUNDS.get(contract.model or "")
    for _ in range(math.ceil(_OUTPUTS / (REPEATS * len(INTEGERS) * max(outputs, 1)))):
        for name in INTEGERS:
            inputs = tuple(_made(name, rng, *buffer) for buffer in buffers)
            expected = run_model(contract, *inputs)
            if bound is None:
                yield Case(name, (), inputs, expected)
            else:
                magnitude, share = bound
                yield Case(name, (), inputs, expected, magnitude(*inputs), share)


def _made(name: str, rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> Array:
    if dtype == "bfloat16":
        return rounded(FLOATS[name](rng, shape))
    return INTEGERS[name](rng, dtype, shape)


def _described(argument: Argument) -> tuple[str, tuple[int, ...]]:
    """Type and shape of a buffer, flat."""
    if argument.dtype is None or argument.bytes is None:
        raise KernelError(f"{argument.name}: the contract does not say what the buffer holds")
    if "int" not in argument.dtype and argument.dtype != "bfloat16":
        raise KernelError(f"{argument.name}: there are no inputs of {argument.dtype} to verify by")
    return argument.dtype, (argument.bytes // numpy_dtype(argument.dtype).itemsize,)


def _run(kernel: Kernel, case: Case) -> float:
    """The largest error of a launch. Raises KernelLied if an output was not written."""
    program = kernel.program(case.shape)
    inputs = [_filled(kernel, FIRST_BUFFER + i, array) for i, array in enumerate(case.inputs)]
    outputs = []
    for i, array in enumerate(case.expected):
        buffer = kernel.buffer(FIRST_BUFFER + len(inputs) + i, array.nbytes)
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
    device: Device, others: Sequence[Entry], rng: np.random.Generator, opened: ExitStack
) -> Iterator[Callable[[], object]]:
    """Launches of other kernels, which must not disturb the one that is verified."""
    for entry in others:
        try:
            kernel = device.open(entry)
        except KernelError:
            # Its files are not there, say: that is not this kernel's fault.
            continue
        opened.callback(kernel.close)
        cases = _gemm_cases(entry, rng) if _is_gemm(entry) else _model_cases(entry, rng)
        yield partial(_distract, kernel, next(cases))


def _distract(kernel: Kernel, case: Case) -> None:
    # Whether this kernel does well is not the question.
    with suppress(DeviceError):
        _run(kernel, case)


@dataclass(frozen=True)
class Timing:
    """Medians; see ``Evidence``."""

    launch_seconds: float | None
    rate: float | None
    bytes_per_second: float | None


def _time(kernel: Kernel, entry: Entry) -> Timing:
    if not _is_gemm(entry):
        sizes = [a.bytes or 0 for a in (*entry.contract.inputs, *entry.contract.outputs)]
        seconds, buffers = _time_launches(kernel, (), sizes)
        return Timing(seconds, None, _time_copies(buffers))
    tile = GemmTile(**entry.contract.tile)
    small, large = ((n * tile.m, n * tile.k, n * tile.n) for n in _TIMED_TILES)
    overhead, _ = _time_launches(kernel, small, list(gemm_int8_sizes(*small).values()))
    seconds, buffers = _time_launches(kernel, large, list(gemm_int8_sizes(*large).values()))
    work = 2 * (math.prod(large) - math.prod(small))
    # A difference within the noise says nothing about the rate.
    rate = work / (seconds - overhead) if seconds > 1.2 * overhead else None
    return Timing(overhead, rate, _time_copies(buffers))


def _time_launches(
    kernel: Kernel, shape: tuple[int, ...], sizes: Sequence[int]
) -> tuple[float, list[Buffer]]:
    program = kernel.program(shape)
    buffers = [kernel.buffer(FIRST_BUFFER + i, nbytes) for i, nbytes in enumerate(sizes)]
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
