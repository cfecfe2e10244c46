"""The base of all families: everything that others ask of a kernel without knowing its family.

A family is one class. It has objects for single kernels, made by ``families.family_of``, which
hold the entry of the registry and nothing of a device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from whisper_npu.backends.npu.device import U8
from whisper_npu.backends.npu.kernel_rates import KernelRates
from whisper_npu.backends.npu.launch_case import LaunchCase
from whisper_npu.backends.npu.registry import KernelEntry
from whisper_npu.errors import KernelError
from whisper_npu.model.graph import Graph, Op
from whisper_npu.runtime.backend import Bound, Form, Step

T = TypeVar("T")
# Memory for a weight in a kernel's buffer, uint8 [nbytes], by the weight's name and bytes. Raises
# KernelError.
Take = Callable[[str, int], U8]


class SoftwareMemory(Protocol):
    """A buffer of the software device."""

    @property
    def device(self) -> U8:
        """What the device sees of it, uint8 [nbytes]."""
        ...

    def derived(self, make: Callable[[U8], T]) -> T:
        """What ``make`` gives for ``device``, made again when the host has synchronised it."""
        ...


@dataclass(frozen=True)
class Timed:
    """A launch to be timed: its shape, the bytes of the data buffers in order, and its operations
    (a multiply and an add are two)."""

    shape: tuple[int, ...]
    sizes: tuple[int, ...]
    operations: int = 0


@dataclass(frozen=True)
class Work:
    """What a kernel would do for a region: one launch.

    ``shape`` is that of the program. ``inputs`` and ``outputs`` are bytes of the buffers that are
    moved, in the contract's order, ``resident`` those of ``weight``, which has a buffer of its own
    (see ``Family.resident``). Regions of one ``shape`` and ``key`` share the buffers that are
    moved; inputs are zeros before anything is written. ``seconds`` is predicted.
    """

    ops: tuple[Op, ...]
    shape: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    seconds: float
    weight: str | None = None
    resident: int = 0
    key: tuple[int, ...] = ()


@dataclass(frozen=True)
class Task:
    """What the host does around a launch of a region.

    ``write`` puts the region's inputs into the kernel's, ``read`` makes the region's outputs of the
    kernel's. ``wrong`` compares these with what NumPy gives: it says how many differ, or None.
    ``unproven`` is much cheaper: it says how many of the kernel's outputs break a law that all
    right ones obey, or None. A family that has no such law has no such function.
    """

    write: Callable[[], object]
    read: Callable[[], object]
    wrong: Callable[[], str | None]
    unproven: Callable[[], str | None] | None = None


class Family(ABC):
    """One kernel of a family. A family of no ``kinds`` serves no op."""

    # Kinds of op that kernels of the family run.
    kinds: ClassVar[tuple[str, ...]] = ()
    # Kinds of float32 ops in whose place int8 graphs have those: it is said why they are refused.
    float_kinds: ClassVar[tuple[str, ...]] = ()
    # Whether a launch of it may come between those of a kernel that is verified.
    distracts: ClassVar[bool] = False
    # Which input holds a weight that is written once, by its place among the inputs.
    resident: ClassVar[int | None] = None

    def __init__(self, entry: KernelEntry) -> None:
        self.entry, self.contract = entry, entry.contract

    # Instructions

    def instructions(self, shape: tuple[int, ...]) -> tuple[bytes, list[int]]:
        """A stream for a launch of this shape, and the bytes that it touches of each data buffer.

        Asked for where the contract names no file. Raises KernelError.
        """
        raise KernelError(
            f"kernel {self.contract.name}: no instructions for shape {shape}: the registry names "
            f"no file, and none are made for the family {self.contract.family}"
        )

    def sample(self) -> bytes | None:
        """The stream that stands in evidence for all that ``instructions`` makes, if it does."""
        return None

    # Verification

    @abstractmethod
    def cases(self, rng: np.random.Generator) -> Iterator[LaunchCase]:
        """What the kernel is verified by. Raises KernelError if it cannot be."""

    def production(self, rng: np.random.Generator, launches: int) -> Iterator[LaunchCase]:
        """Further cases, one for each of ``launches``, in kept buffers, as a model has them: data
        are written over those of the case before, and may differ little from them."""
        return iter(())

    @abstractmethod
    def timed(self) -> tuple[Timed, ...]:
        """A launch that is all overhead, and perhaps one that is mostly work."""

    @abstractmethod
    def simulate(
        self,
        shape: tuple[int, ...],
        inputs: Sequence[SoftwareMemory],
        outputs: Sequence[SoftwareMemory],
    ) -> None:
        """A launch on the software device, from the inputs to the outputs. Raises KernelError."""

    # Regions of a graph

    def work(self, graph: Graph, index: int, rates: KernelRates) -> Work | None:
        """What the kernel would do for the region that begins with the op of this index, if it
        takes it."""
        return None

    def form(self, take: Take) -> Form | None:
        """The form of resident weights, in memory that ``take`` gives; None if there are none."""
        return None

    def sums(self, bound: Bound) -> Any:
        """What ``Task.unproven`` needs of a region's weight. It is computed once for each, before
        a kernel has seen it."""
        return None

    def task(self, bound: Bound, arrays: Sequence[U8], sums: Any) -> Task:
        """For a region that the kernel takes; ``arrays`` are the host's views of its data buffers,
        in the contract's order, and ``sums`` those of its weight, None if launches are not to be
        proven."""
        raise NotImplementedError

    def numpy(self, bound: Bound) -> Step:
        """The same region by NumPy, from the same arrays: a packed weight as it lies."""
        raise NotImplementedError
