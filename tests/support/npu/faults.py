"""Products directed to kernels one by one, and every way in which a device can fail one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from whisper_npu.backends.npu.backend import NpuBackend
from whisper_npu.backends.npu.device import (
    BufferRefused,
    Device,
    DeviceError,
    DeviceLost,
    LaunchFailed,
    LaunchTimedOut,
    NoContext,
)
from whisper_npu.backends.npu.kernel_rates import PHOENIX_CORE
from whisper_npu.backends.npu.manager import VERIFIED, KernelStatus
from whisper_npu.backends.npu.registry import KernelEntry
from whisper_npu.backends.numpy import numpy_backends
from whisper_npu.model.graph import Graph, Op
from whisper_npu.runtime.backend import Offer, Refusal
from whisper_npu.runtime.machine import Machine
from whisper_npu.runtime.usage import Usage


@dataclass(frozen=True)
class Way:
    """The ``nth`` action of a kind fails. A kernel's buffers are weights, rows and sums."""

    action: str
    nth: int
    error: type[DeviceError]

    def __str__(self) -> str:
        return f"{self.action} {self.nth}: {self.error.reason}"


WAYS = (
    Way("launch", 1, LaunchFailed),
    Way("launch", 2, LaunchFailed),
    Way("launch", 1, LaunchTimedOut),
    Way("launch", 2, LaunchTimedOut),
    Way("launch", 1, DeviceLost),
    Way("launch", 2, DeviceLost),
    Way("launch", 2, NoContext),
    Way("open", 1, NoContext),
    Way("open", 1, DeviceLost),
    Way("program", 1, BufferRefused),
    Way("buffer", 1, BufferRefused),
    Way("buffer", 2, BufferRefused),
    Way("buffer", 3, BufferRefused),
)


class Fault:
    """Fails a kernel once. ``seen`` counts its actions of this kind, ``after`` all later ones."""

    def __init__(self, kernel: str, way: Way) -> None:
        self.seen = self.after = 0
        self._kernel, self._way = kernel, way

    def __call__(self, action: str, kernel: str, count: int) -> DeviceError | None:
        self.after += self.seen >= self._way.nth
        if (action, kernel) != (self._way.action, self._kernel):
            return None
        self.seen += 1
        failed = self.seen == self._way.nth
        return self._way.error(f"{kernel}: {action} failed") if failed else None


# Which kernel an op should run on; None for NumPy.
Chooser = Callable[[Graph, Op], "KernelEntry | None"]


class Directed(NpuBackend):
    """Kernels for the products that are chosen, once for each op of a phase, and for no others."""

    def __init__(
        self,
        device: Device,
        entries: Sequence[KernelEntry],
        choose: Chooser,
        usage: Usage,
        check_rate: float = 0.0,
        seed: int = 0,
        proving: bool = True,
    ) -> None:
        kernels = [KernelStatus(entry, {}, VERIFIED, None) for entry in entries]
        rates = {kernel.name: PHOENIX_CORE for kernel in kernels}
        super().__init__(device, kernels, rates, usage, check_rate, seed, proving)
        self._choose = choose
        self._chosen: dict[tuple[str, str], KernelEntry | None] = {}

    def offer(self, graph: Graph, index: int) -> Offer | Refusal:
        """See ``Backend``."""
        op = graph.ops[index]
        if op.kind not in self.kinds:
            return super().offer(graph, index)
        key = graph.name, op.name
        if key not in self._chosen:
            self._chosen[key] = self._choose(graph, op)
        entry = self._chosen[key]
        if entry is None:
            return Refusal(self.name, "not chosen")
        return self.offer_of(entry.contract.name, graph, index)


def directed_machine(npu: NpuBackend) -> Machine:
    """The kernels, and NumPy for the rest."""
    return Machine((npu, *numpy_backends()), usage=npu.usage)
