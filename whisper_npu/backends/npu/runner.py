"""Kernels in their contexts: weights that stay, buffers that regions share, and launches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from whisper_npu.backends.npu.contract import Argument
from whisper_npu.backends.npu.device import (
    CANARY,
    U8,
    Buffer,
    BufferRefused,
    Device,
    Kernel,
    KernelLied,
    NoDevice,
    Program,
)
from whisper_npu.backends.npu.families.family import Family, Work
from whisper_npu.backends.npu.registry import KernelEntry
from whisper_npu.backends.npu.trust import Trust
from whisper_npu.runtime.backend import Bound


@dataclass
class _Shared:
    """Buffers that regions use one after another, without that of a weight."""

    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    abandoned: bool = False


class Runner:
    """One kernel with all programs and buffers of the regions that run on it.

    Regions run one after another: those of one shape share the buffers of inputs and outputs.
    """

    def __init__(self, kernel: Kernel, family: Family) -> None:
        self.kernel, self.family = kernel, family
        self._programs: dict[tuple[int, ...], Program] = {}
        self._shared: dict[tuple[int, ...], _Shared] = {}
        self._weights: dict[str, Buffer] = {}
        self._refused: dict[str, str] = {}
        self._synchronised: set[str] = set()
        self._sums: dict[str, Any] = {}
        self._abandoned: list[_Shared] = []

    def has(self, weight: str) -> bool:
        """Whether there is memory of a weight."""
        return weight in self._weights

    def memory(self, weight: str) -> U8:
        """The host's view of a weight's buffer."""
        return self._weights[weight].array

    def take(self, weight: str, nbytes: int) -> U8:
        """The host's view of a buffer for a weight, the same one again for the same name.

        Its content is undefined at first. Raises BufferRefused, and does so again for a weight that
        there was no memory for: by then it is in host memory, and would be held twice.
        """
        if weight in self._refused:
            raise BufferRefused(self._refused[weight])
        if weight not in self._weights:
            resident = self.family.resident
            assert resident is not None
            argument = self.kernel.contract.inputs[resident]
            try:
                self._weights[weight] = self.kernel.buffer(argument.index, nbytes)
            except BufferRefused as error:
                # As text alone: an error that was raised keeps the arrays of its frames.
                self._refused[weight] = str(error)
                raise
        return self.memory(weight)

    def synchronise(self, weight: str) -> int:
        """Have the device see a weight that was taken and filled, once. Bytes that it then has
        more than before. Raises DeviceError."""
        if weight in self._synchronised:
            return 0
        buffer = self._weights[weight]
        buffer.to_device()
        self._synchronised.add(weight)
        return buffer.array.nbytes

    def sums(self, work: Work, bound: Bound) -> Any:
        """See ``Family.sums``: of a region's weight, computed when it is asked for first."""
        if work.weight is None:
            return None
        if work.weight not in self._sums:
            self._sums[work.weight] = self.family.sums(bound)
        return self._sums[work.weight]

    def prepare(self, work: Work, bound: Bound, proving: bool = True) -> Launch:
        """A region's launch, with all that it needs, so that nothing is made while running.

        ``proving`` says whether each is to be proven.

        Raises KernelError.
        """
        if work.shape not in self._programs:
            self._programs[work.shape] = self.kernel.program(work.shape)
        return Launch(self, work, bound, proving)

    def program(self, work: Work) -> Program:
        """The instructions of a region that was prepared."""
        return self._programs[work.shape]

    def shared(self, work: Work) -> _Shared:
        """The buffers of a region, made if there are none. Raises BufferRefused."""
        key = work.shape + work.key
        if key not in self._shared:
            moved = list(self.kernel.contract.inputs)
            if self.family.resident is not None:
                del moved[self.family.resident]
            inputs = self._buffers(moved, work.inputs)
            for buffer in inputs:
                buffer.array[:] = 0
            outputs = self._buffers(self.kernel.contract.outputs, work.outputs)
            self._shared[key] = _Shared(inputs, outputs)
        return self._shared[key]

    def _buffers(self, arguments: Sequence[Argument], sizes: Sequence[int]) -> tuple[Buffer, ...]:
        pairs = zip(arguments, sizes, strict=True)
        return tuple(self.kernel.buffer(argument.index, nbytes) for argument, nbytes in pairs)

    def arguments(self, work: Work, shared: _Shared) -> tuple[Buffer, ...]:
        """All data buffers of a region, in the contract's order."""
        inputs = list(shared.inputs)
        if self.family.resident is not None and work.weight is not None:
            inputs.insert(self.family.resident, self._weights[work.weight])
        return (*inputs, *shared.outputs)

    def abandon(self, work: Work, shared: _Shared) -> None:
        """Have buffers not used again, nor given back: a launch may still write to them."""
        del self._shared[work.shape + work.key]
        shared.abandoned = True
        self._abandoned.append(shared)

    def close(self) -> None:
        """Give back the context, and forget all buffers."""
        self.kernel.close()
        for held in (self._sums, self._programs, self._shared, self._weights, self._abandoned):
            held.clear()
        self._synchronised.clear()


class Runners:
    """The kernels of a device that are in use, by name, each opened when it is needed first."""

    def __init__(self, device: Device | None, trust: Trust) -> None:
        self.device, self._trust = device, trust
        self._opened: dict[str, Runner] = {}

    def holding(self, kernel: str, weight: str | None) -> Runner | None:
        """A kernel if it is open and has memory of a weight."""
        runner = self._opened.get(kernel)
        return runner if runner is not None and weight is not None and runner.has(weight) else None

    def open(self, entry: KernelEntry, family: Family) -> Runner:
        """A kernel in a context. Raises KernelError; what is not to be used is not tried."""
        name = entry.contract.name
        self._trust.check(name)
        if name not in self._opened:
            if self.device is None:
                raise NoDevice(f"{name}: is described alone; there is no device to run it")
            with self._trust.noting(name):
                self._opened[name] = Runner(self.device.open(entry), family)
        return self._opened[name]

    def take(self, entry: KernelEntry, family: Family, weight: str, nbytes: int) -> U8:
        """Memory for a weight in a buffer of a kernel. Raises KernelError."""
        runner = self.open(entry, family)
        # Now, for others of its weights may be asked for before the op is said to have failed.
        with self._trust.noting(entry.contract.name):
            return runner.take(weight, nbytes)

    def close(self) -> None:
        """Give back all contexts and buffers."""
        for runner in self._opened.values():
            runner.close()
        self._opened.clear()


class Launch:
    """A region on a kernel. ``inputs`` and ``outputs`` are its buffers, without a weight's."""

    def __init__(self, runner: Runner, work: Work, bound: Bound, proving: bool) -> None:
        self._runner, self._work, self._bound = runner, work, bound
        self._kernel, self._program = runner.kernel, runner.program(work)
        self._sums = runner.sums(work, bound) if proving else None
        self._use(runner.shared(work))

    def _use(self, shared: _Shared) -> None:
        self._shared = shared
        self.inputs, self.outputs = shared.inputs, shared.outputs
        self._arguments: Sequence[Buffer] = self._runner.arguments(self._work, shared)
        arrays = [buffer.array for buffer in self._arguments]
        self._task = self._runner.family.task(self._bound, arrays, self._sums)

    def __call__(self, canaries: bool = False) -> None:
        """Launch, and wait for the kernel's outputs. Raises KernelError; after that the buffers are
        not used again: a launch that has not ended may still write to them.

        With ``canaries`` outputs are filled with a pattern before, and it is a KernelLied if one of
        them still has it all over.
        """
        if self._shared.abandoned:
            self._use(self._runner.shared(self._work))
        self._task.write()
        try:
            if canaries:
                for buffer in self.outputs:
                    buffer.array[:] = CANARY
                    buffer.to_device()
            for buffer in self.inputs:
                buffer.to_device()
            self.launch()
            for buffer in self.outputs:
                buffer.from_device()
                if canaries and (buffer.array == CANARY).all():
                    raise KernelLied(f"{self._kernel.contract.name}: did not write an output")
        except BaseException:
            self._runner.abandon(self._work, self._shared)
            raise

    def launch(self) -> None:
        """Launch with what the device has of the inputs, and wait for the end."""
        self._kernel.launch(self._program, self._arguments)

    @property
    def has_law(self) -> bool:
        """Whether launches can be proven by ``unproven``, and are to be."""
        return self._task.unproven is not None

    def unproven(self) -> str | None:
        """How many of the outputs of the last launch break a law of the kernel's family; None if
        none does."""
        assert self._task.unproven is not None
        return self._task.unproven()

    def wrong(self) -> str | None:
        """How many of the outputs of the last launch differ from NumPy's; None if none does."""
        return self._task.wrong()

    def read(self) -> None:
        """Write the region's outputs from those of the last launch."""
        self._task.read()
