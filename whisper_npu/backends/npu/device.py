"""The narrow interface to a device: open, context, buffer, launch, wait.

Everything above it (families, verification, the backend) works on any device that has it:
``whisper_npu.backends.npu.software.SoftwareDevice``, made of the kernels' NumPy models, or a real
one through pyxrt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from whisper_npu.backends.npu.contract import KernelContract
from whisper_npu.backends.npu.registry import KernelEntry
from whisper_npu.errors import KernelError

U8 = NDArray[np.uint8]

# What outputs are filled with before a launch: a value that stays is one that was never written.
CANARY = 0xA5


class DeviceError(KernelError):
    """A device did not do what was asked of it."""


class LaunchFailed(DeviceError):
    """A launch ended in another state than completed."""

    reason = "launch failed"


class LaunchTimedOut(DeviceError):
    """A launch was not over at its deadline. Its buffers may still be written."""

    reason = "timeout"


class NoDevice(DeviceError):
    """There is no device, or it cannot be opened."""

    reason = "no device"


class DeviceLost(DeviceError):
    """The device has gone: nothing on it can be used any more."""

    reason = "device lost"


class NoContext(DeviceError):
    """All hardware contexts are taken, by this process or by others."""

    reason = "no context"


class BufferRefused(DeviceError):
    """A buffer could not be had: out of device memory, or of a kind that the kernel cannot take."""

    reason = "buffer refused"


class KernelLied(DeviceError):
    """A launch completed and its outputs are wrong."""

    reason = "wrong result"


@dataclass(frozen=True)
class DeviceIdentity:
    """What evidence is bound to: the device with its firmware, and the software that drives it."""

    name: str
    pci_id: str
    firmware: str
    driver: str
    xrt: str


class Buffer(Protocol):
    """Memory of an argument. ``array``, uint8 [nbytes], is the host's view of it.

    Whether the device sees what the host wrote before ``to_device``, or the host what the device
    wrote before ``from_device``, is undefined.
    """

    @property
    def array(self) -> U8: ...

    def to_device(self) -> None: ...

    def from_device(self) -> None: ...


class Program(Protocol):
    """A kernel's instructions for launches of one shape, resident on the device."""

    @property
    def shape(self) -> tuple[int, ...]: ...


class Kernel(Protocol):
    """A kernel in a hardware context."""

    @property
    def contract(self) -> KernelContract: ...

    def buffer(self, argument: int, nbytes: int) -> Buffer:
        """Memory for the argument of this index of the contract. Raises BufferRefused."""
        ...

    def program(self, shape: tuple[int, ...]) -> Program:
        """Instructions for a shape: (m, k, n) for a GEMM, () for a kernel of one shape.

        Raises BufferRefused, and KernelError for a shape that the kernel does not take.
        """
        ...

    def launch(self, program: Program, buffers: Sequence[Buffer]) -> None:
        """Run with the data buffers of the contract in order, and wait for the end.

        Raises LaunchFailed, LaunchTimedOut and DeviceLost.
        """
        ...

    def close(self) -> None:
        """Give back the context. Buffers stay usable."""
        ...


class Device(Protocol):
    """An open device."""

    @property
    def identity(self) -> DeviceIdentity: ...

    def open(self, entry: KernelEntry) -> Kernel:
        """The kernel in a context. Raises NoContext, DeviceLost, and KernelError if its files are
        not there or not those of the registry."""
        ...

    def close(self) -> None: ...
