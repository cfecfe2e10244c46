"""A case of a verification: inputs made to break a kernel, and what it must make of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_npu.backends.npu.device import KernelLied
from whisper_npu.ops.arrays import widen_bfloat16

# Every case is launched twice in a row, the second time over the outputs of other inputs.
REPEATS = 2

Array = NDArray[Any]


@dataclass(frozen=True)
class LaunchCase:
    """Inputs, the outputs that they must give, and the shape to launch with.

    Integers must be equal. Floats may differ by the share ``allowed`` of their ``magnitude``.
    ``kept`` names the buffers that it is launched with, those of inputs and then those of outputs:
    cases with the same name share the buffer and the data that the last of them left there. Without
    names all buffers are new.
    """

    name: str
    shape: tuple[int, ...]
    inputs: tuple[Array, ...]
    expected: tuple[Array, ...]
    magnitude: Array | None = None
    allowed: float = 0.0
    kept: tuple[str, ...] = ()

    def error(self, found: Array, expected: Array) -> float:
        """The largest difference of integers, or of floats as a share of their magnitude.

        Raises KernelLied for a float that is no number.
        """
        if self.magnitude is None:
            return float(np.abs(found.astype(np.float64) - expected).max())
        numbers = widen_bfloat16(found).astype(np.float64)
        if not np.isfinite(numbers).all():
            raise KernelLied(f"{self.name} {self.shape}: an output is not a finite number")
        difference = np.abs(numbers - widen_bfloat16(expected))
        nothing = (difference > 0).astype(np.float64)
        size = self.magnitude
        return float(np.divide(difference, size, out=nothing, where=size > 0).max())

    def complaint(self, error: float) -> str:
        """What is wrong with a kernel of this error."""
        differ = f"{self.name} {self.shape}: outputs differ by up to"
        if self.magnitude is None:
            return f"{differ} {error:g}"
        return f"{differ} {error:.2%} of their accumulated magnitude, {self.allowed:.2%} is allowed"
