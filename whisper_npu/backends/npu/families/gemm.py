"""Quantised products on a GEMM kernel: resident weights, reused buffers, padding to whole tiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whisper_npu.backends.npu.device import Buffer, Kernel, Program
from whisper_npu.backends.npu.families.gemm_stream import (
    ARGUMENT_A,
    ARGUMENT_B,
    ARGUMENT_C,
    gemm_int8_sizes,
)
from whisper_npu.backends.npu.families.packing import GemmTile, pack_gemm_weights
from whisper_npu.ops.arrays import I8, I32

# Kernels of this family take instructions made by ``gemm_stream`` for each shape.
GEMM_FAMILY = "gemm_int8"
# Data buffers come after opcode, instructions and their size.
FIRST_BUFFER = 3


@dataclass(frozen=True)
class GemmShape:
    """A product [m, k] x [k, n] and what it becomes in whole tiles."""

    m: int
    k: int
    n: int
    padded: tuple[int, int, int]

    @property
    def bytes_in(self) -> int:
        """Bytes of activations that a launch takes."""
        return gemm_int8_sizes(*self.padded)[ARGUMENT_A]

    @property
    def bytes_out(self) -> int:
        """Bytes of sums that a launch gives."""
        return gemm_int8_sizes(*self.padded)[ARGUMENT_C]

    @property
    def resident_bytes(self) -> int:
        """Bytes of the packed weights."""
        return gemm_int8_sizes(*self.padded)[ARGUMENT_B]


def gemm_shape(tile: GemmTile, m: int, k: int, n: int) -> GemmShape:
    """The shape padded to whole tiles."""
    padded = tuple(-(-size // step) * step for size, step in zip((m, k, n), tile, strict=True))
    return GemmShape(m, k, n, (padded[0], padded[1], padded[2]))


class Gemm:
    """One GEMM kernel in its context, with all buffers and programs that its products use.

    Products run one after another: those of one shape share the buffers of rows and sums.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.tile = GemmTile(**kernel.contract.tile)
        self._programs: dict[tuple[int, int, int], Program] = {}
        self._buffers: dict[tuple[int, int, int], tuple[Buffer, Buffer]] = {}
        self._weights: dict[str, Buffer] = {}
        self._abandoned: list[tuple[Buffer, Buffer]] = []

    def has_weights(self, name: str) -> bool:
        """Whether a weight is on the device."""
        return name in self._weights

    def load_weights(self, name: str, w: I8) -> None:  # [n, k]
        """Pack a weight, write it and synchronise it: once for each name."""
        packed = pack_gemm_weights(w, self.tile)
        buffer = self.kernel.buffer(FIRST_BUFFER + ARGUMENT_B, packed.nbytes)
        np.copyto(buffer.array, packed.reshape(-1).view(np.uint8))
        buffer.to_device()
        self._weights[name] = buffer

    def prepare(self, shape: GemmShape) -> None:
        """Make what a product of this shape needs, so that none is made while running."""
        if shape.padded not in self._programs:
            self._programs[shape.padded] = self.kernel.program(shape.padded)
        self._shared(shape)

    def _shared(self, shape: GemmShape) -> tuple[Buffer, Buffer]:
        # By the real k: the columns beyond it stay zero for as long as the buffer lives.
        key = (shape.padded[0], shape.k, shape.padded[2])
        if key not in self._buffers:
            rows = self.kernel.buffer(FIRST_BUFFER + ARGUMENT_A, shape.bytes_in)
            rows.array[:] = 0
            sums = self.kernel.buffer(FIRST_BUFFER + ARGUMENT_C, shape.bytes_out)
            self._buffers[key] = rows, sums
        return self._buffers[key]

    def product(self, x: I8, weight: str, shape: GemmShape) -> I32:  # [m, k] -> [m, n]
        """Sums over all of k for a weight that was loaded and a shape that was prepared; a view
        that holds until the next product of this shape.

        Raises DeviceError. After that the buffers are not used again: a launch that has not ended
        may still write to them.
        """
        m, k, n = shape.padded
        rows, sums = self._shared(shape)
        rows.array.view(np.int8).reshape(m, k)[: shape.m, : shape.k] = x
        try:
            rows.to_device()
            self.kernel.launch(self._programs[shape.padded], [rows, self._weights[weight], sums])
            sums.from_device()
        except BaseException:
            del self._buffers[shape.padded[0], shape.k, shape.padded[2]]
            self._abandoned.append((rows, sums))
            raise
        result: I32 = sums.array.view(np.int32).reshape(m, n)[: shape.m, : shape.n]
        return result

    def close(self) -> None:
        """Give back the context, and forget all buffers."""
        self.kernel.close()
        for held in (self._programs, self._buffers, self._weights, self._abandoned):
            held.clear()
