"""Kernels of one fixed shape, whose NumPy model their folder brings along."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_npu.backends.npu.adversarial import CHANGED, FLOATS, INTEGERS, changed_little
from whisper_npu.backends.npu.contract import Argument
from whisper_npu.backends.npu.dtypes import numpy_dtype, rounded
from whisper_npu.backends.npu.families.family import Family, SoftwareMemory, Timed
from whisper_npu.backends.npu.kernel_models import bound_of, run_model
from whisper_npu.backends.npu.launch_case import REPEATS, LaunchCase
from whisper_npu.errors import KernelError

# Outputs compared at least, so that a kernel that is wrong in one of 10^4 passes by chance once in
# e^10 times.
_OUTPUTS = 100_000

Array = NDArray[Any]


class FixedShape(Family):
    """A kernel whose buffers have the sizes of the contract, the family of all that have no own."""

    def cases(self, rng: np.random.Generator) -> Iterator[LaunchCase]:
        """See ``Family``."""
        contract = self.contract
        buffers = [_described(argument) for argument in contract.inputs]
        outputs = sum(math.prod(_described(argument)[1]) for argument in contract.outputs)
        for _ in range(math.ceil(_OUTPUTS / (REPEATS * len(INTEGERS) * max(outputs, 1)))):
            for name in INTEGERS:
                inputs = tuple(_made(name, rng, *buffer) for buffer in buffers)
                yield self._case(name, inputs)

    def production(self, rng: np.random.Generator, launches: int) -> Iterator[LaunchCase]:
        """See ``Family``."""
        contract = self.contract
        buffers = [_described(argument) for argument in contract.inputs]
        kept = tuple(argument.name for argument in (*contract.inputs, *contract.outputs))
        inputs: tuple[Array, ...] = ()
        for _ in range(launches):
            name = str(rng.choice([*INTEGERS, *([CHANGED] if inputs else [])]))
            if name == CHANGED:
                inputs = tuple(changed_little(rng, array) for array in inputs)
            else:
                inputs = tuple(_made(name, rng, *buffer) for buffer in buffers)
            yield self._case(name, inputs, kept)

    def _case(self, name: str, inputs: tuple[Array, ...], kept: tuple[str, ...] = ()) -> LaunchCase:
        expected, bound = run_model(self.entry, *inputs), bound_of(self.entry)
        if bound is None:
            return LaunchCase(name, (), inputs, expected, kept=kept)
        magnitude, share = bound
        return LaunchCase(name, (), inputs, expected, magnitude(*inputs), share, kept)

    def timed(self) -> tuple[Timed, ...]:
        """See ``Family``."""
        arguments = (*self.contract.inputs, *self.contract.outputs)
        return (Timed((), tuple(argument.bytes or 0 for argument in arguments)),)

    def simulate(
        self,
        shape: tuple[int, ...],
        inputs: Sequence[SoftwareMemory],
        outputs: Sequence[SoftwareMemory],
    ) -> None:
        """See ``Family``."""
        contract = self.contract
        views = [_view(memory, a) for memory, a in zip(inputs, contract.inputs, strict=True)]
        for memory, array in zip(outputs, run_model(self.entry, *views), strict=True):
            memory.device[:] = array.reshape(-1).view(np.uint8)


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


def _view(memory: SoftwareMemory, argument: Argument) -> Array:
    if argument.dtype is None:
        raise KernelError(f"{argument.name}: the contract does not say what the buffer holds")
    return memory.device.view(numpy_dtype(argument.dtype))
