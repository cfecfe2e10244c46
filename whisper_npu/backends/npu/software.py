"""A device made of the kernels' NumPy models, to run everything above it without an NPU.

It has memory of its own: what the host did not synchronise, the device does not see. Faults and
wrong results can be injected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from whisper_npu.backends.npu.device import (
    U8,
    Buffer,
    BufferRefused,
    DeviceError,
    DeviceIdentity,
    Program,
)
from whisper_npu.backends.npu.families import family_of
from whisper_npu.backends.npu.registry import KernelEntry
from whisper_npu.version import __version__

T = TypeVar("T")

# "open", "buffer", "program" or "launch", the kernel's name, and how many of these came before.
FaultHook = Callable[[str, str, int], DeviceError | None]
# Launch number and the outputs (as the kernel left them), to be changed in place.
CorruptHook = Callable[[int, Sequence[U8]], None]


def no_fault(action: str, kernel: str, count: int) -> DeviceError | None:
    """Everything works."""
    return None


@dataclass
class Traffic:
    """What a device was asked to do."""

    launches: int = 0
    to_device: int = 0
    from_device: int = 0


class SoftwareBuffer:
    """Host memory, and the copy of it that the device sees."""

    def __init__(self, nbytes: int, traffic: Traffic) -> None:
        self.array: U8 = np.zeros(nbytes, np.uint8)
        # Not zeros: what was never written is not to look like a result.
        self.device: U8 = np.full(nbytes, 0xEE, np.uint8)
        self.syncs = 0
        self._traffic = traffic
        self._derived: tuple[int, Any] | None = None

    def derived(self, make: Callable[[U8], T]) -> T:
        """See ``families.family.Memory``."""
        if self._derived is None or self._derived[0] != self.syncs:
            self._derived = self.syncs, make(self.device)
        made: T = self._derived[1]
        return made

    def to_device(self) -> None:
        np.copyto(self.device, self.array)
        self.syncs += 1
        self._traffic.to_device += self.array.nbytes

    def from_device(self) -> None:
        np.copyto(self.array, self.device)
        self._traffic.from_device += self.array.nbytes


@dataclass(frozen=True)
class SoftwareProgram:
    """The shape is all that a model needs to know."""

    shape: tuple[int, ...]


@dataclass
class SoftwareDevice:
    """Implements ``whisper_npu.backends.npu.device.Device``."""

    fault: FaultHook = no_fault
    corrupt: CorruptHook | None = None
    traffic: Traffic = field(default_factory=Traffic)
    _counts: dict[str, int] = field(default_factory=dict)

    @property
    def identity(self) -> DeviceIdentity:
        return DeviceIdentity(
            "software", "0000:0000", __version__, "none", f"NumPy {np.__version__}"
        )

    def open(self, entry: KernelEntry) -> SoftwareKernel:
        self.act("open", entry.contract.name)
        return SoftwareKernel(self, entry)

    def close(self) -> None:
        pass

    def act(self, action: str, kernel: str) -> int:
        """Count an action; raises the fault that is injected for it."""
        count = self._counts.get(action, 0)
        self._counts[action] = count + 1
        error = self.fault(action, kernel, count)
        if error is not None:
            raise error
        return count


class SoftwareKernel:
    """Implements ``whisper_npu.backends.npu.device.Kernel``."""

    def __init__(self, device: SoftwareDevice, entry: KernelEntry) -> None:
        self.contract = entry.contract
        self._device = device
        self._family = family_of(entry)

    def buffer(self, argument: int, nbytes: int) -> SoftwareBuffer:
        self._device.act("buffer", self.contract.name)
        if self.contract.arguments[argument].direction is None:
            raise BufferRefused(f"{self.contract.name}: argument {argument} takes no buffer")
        return SoftwareBuffer(nbytes, self._device.traffic)

    def program(self, shape: tuple[int, ...]) -> SoftwareProgram:
        self._device.act("program", self.contract.name)
        return SoftwareProgram(shape)

    def launch(self, program: Program, buffers: Sequence[Buffer]) -> None:
        count = self._device.act("launch", self.contract.name)
        self._device.traffic.launches += 1
        own = [buffer for buffer in buffers if isinstance(buffer, SoftwareBuffer)]
        n_inputs = len(self.contract.inputs)
        if len(own) != n_inputs + len(self.contract.outputs):
            raise BufferRefused(f"{self.contract.name}: {len(own)} buffers of this device")
        self._family.simulate(program.shape, own[:n_inputs], own[n_inputs:])
        if self._device.corrupt is not None:
            self._device.corrupt(count, [buffer.device for buffer in own[n_inputs:]])

    def close(self) -> None:
        pass
