"""A device made of the kernels' NumPy models, to run everything above it without an NPU.

It has memory of its own: what the host did not synchronise, the device does not see. Faults and
wrong results can be injected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_npu import __version__
from whisper_npu.backends.npu.contract import Argument, KernelContract
from whisper_npu.backends.npu.device import (
    U8,
    Buffer,
    BufferRefused,
    DeviceError,
    DeviceIdentity,
    Program,
)
from whisper_npu.backends.npu.families.gemm import GEMM_FAMILY
from whisper_npu.backends.npu.families.gemm_stream import gemm_int8_sizes
from whisper_npu.backends.npu.families.packing import GemmTile, unpack_gemm_weights
from whisper_npu.backends.npu.models import numpy_dtype, run_model
from whisper_npu.backends.npu.registry import Entry
from whisper_npu.errors import KernelError
from whisper_npu.ops.arrays import F32
from whisper_npu.ops.quant import integer_product

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
        self.weights: tuple[int, F32] | None = None

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

    def open(self, entry: Entry) -> SoftwareKernel:
        self.act("open", entry.contract.name)
        return SoftwareKernel(self, entry.contract)

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

    def __init__(self, device: SoftwareDevice, contract: KernelContract) -> None:
        self.contract = contract
        self._device = device
        self._run = _gemm(contract) if contract.family == GEMM_FAMILY else _model(contract)

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
        if len(own) != len(self.contract.inputs) + len(self.contract.outputs):
            raise BufferRefused(f"{self.contract.name}: {len(own)} buffers of this device")
        self._run(program.shape, own)
        if self._device.corrupt is not None:
            n_inputs = len(self.contract.inputs)
            self._device.corrupt(count, [buffer.device for buffer in own[n_inputs:]])

    def close(self) -> None:
        pass


_Run = Callable[[tuple[int, ...], Sequence[SoftwareBuffer]], None]


def _gemm(contract: KernelContract) -> _Run:
    """C = A B: what the tile kernel, carried out tile by tile, amounts to."""
    tile = GemmTile(**contract.tile)

    def run(shape: tuple[int, ...], buffers: Sequence[SoftwareBuffer]) -> None:
        m, k, n = shape
        a, b, c = buffers
        for buffer, nbytes in zip(buffers, gemm_int8_sizes(m, k, n).values(), strict=True):
            if buffer.device.nbytes != nbytes:
                raise KernelError(
                    f"{contract.name}: a buffer of {buffer.device.nbytes} bytes, not {nbytes}"
                )
        rows = a.device.view(np.int8).reshape(m, k).astype(np.float32)
        if b.weights is None or b.weights[0] != b.syncs:
            packed = b.device.view(np.int8).reshape(n // tile.n, k // tile.k, -1)
            b.weights = b.syncs, unpack_gemm_weights(packed, n, k, tile).astype(np.float32)
        product = _exact(rows, b.weights[1])
        np.copyto(c.device.view(np.int32).reshape(m, n), product, casting="unsafe")

    return run


def _exact(x: F32, w: F32) -> NDArray[Any]:  # [m, k], [n, k] -> [m, n]
    """The int32 sums, in a type that holds them."""
    total = np.zeros((x.shape[0], w.shape[0]), np.float64)
    for start in range(0, x.shape[1], 1024):
        part = slice(start, start + 1024)
        total += integer_product(x[:, part], w[:, part])
    return total


def _model(contract: KernelContract) -> _Run:
    """A kernel of one shape, by the model that its contract names."""

    def run(shape: tuple[int, ...], buffers: Sequence[SoftwareBuffer]) -> None:
        n_inputs = len(contract.inputs)
        inputs = [_view(b, a) for b, a in zip(buffers[:n_inputs], contract.inputs, strict=True)]
        results = run_model(contract, *inputs)
        for buffer, array in zip(buffers[n_inputs:], results, strict=True):
            buffer.device[:] = array.reshape(-1).view(np.uint8)

    return run


def _view(buffer: SoftwareBuffer, argument: Argument) -> NDArray[Any]:
    if argument.dtype is None:
        raise KernelError(f"{argument.name}: the contract does not say what the buffer holds")
    return buffer.device.view(numpy_dtype(argument.dtype))
