"""What kernels do on a device, measured by a verification or as published."""

from __future__ import annotations

import math
from dataclasses import dataclass

from whisper_npu.model.builders import build_cross_kv, build_encoder, build_step
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.model.graph import ITEM_SIZE
from whisper_npu.model.report import op_flops


@dataclass(frozen=True)
class KernelRates:
    """What a kernel does on a device.

    ``launch_seconds`` is for a launch of next to nothing, ``rate`` in operations per second (a
    multiply and an add are two), ``dma_bytes_per_second`` between memory and the array,
    ``copy_bytes_per_second`` of the host writing and synchronising buffers. ``source`` says
    where they are from. ``channel_bytes_per_second`` is what one stream channel carries, and
    ``short_rows_bytes_per_second`` what memory gives where it is read in rows of at most
    ``SHORT_ROW`` bytes: both are within a rate that was measured as a whole.
    """

    launch_seconds: float
    rate: float
    dma_bytes_per_second: float
    copy_bytes_per_second: float
    source: str
    channel_bytes_per_second: float = math.inf
    short_rows_bytes_per_second: float = math.inf

    def describe(self) -> str:
        """All of it as text; without what is not known on its own."""
        parts = [
            f"{self.launch_seconds * 1e6:.0f} us a launch",
            f"{self.rate / 1e9:.4g} GOPS",
            f"DMA {self.dma_bytes_per_second / 1e9:.0f} GB/s",
            f"copies {self.copy_bytes_per_second / 1e9:.1f} GB/s",
        ]
        if math.isfinite(self.channel_bytes_per_second):
            parts.append(f"a channel {self.channel_bytes_per_second / 1e9:.1f} GB/s")
        if math.isfinite(self.short_rows_bytes_per_second):
            rows = f"rows of {SHORT_ROW} bytes"
            parts.append(f"{rows} {self.short_rows_bytes_per_second / 1e9:.1f} GB/s")
        return f"{', '.join(parts)} ({self.source})"


# Bytes of a row that memory gives at a fraction of its speed.
SHORT_ROW = 64
# The middle power level (amd/xdna-driver npu1_regs.c), cycles a second.
CLOCK = 1.309e9
# Multiply-accumulates of int8 that a core's matrix unit does in a cycle (AM020).
MATRIX_UNIT = 256
# Cycles of one in a scalar loop: two loads, a multiply and an add. Assumed: our source
# (kernels/src/gemm_i8.cc) has no other loop, and was never compiled for a core.
SCALAR_CYCLES = 4
_MEMORY = 17e9

# A Phoenix laptop as published, with our GEMM on one core of one column. Predicted, never measured:
# * a launch from Python with a reused run object: 0.2 ms (amd/IRON, whisper_pipeline.py);
# * the core runs the scalar loop above, not its matrix unit;
# * DMA of about 17 GB/s sustained (derived from amd/IRON's GEMM table for NPU1), and about a fifth
#   of that for rows of 64 bytes;
# * a stream carries 4 bytes a cycle (AM020): A, B and C have a channel each;
# * copying into host_only buffers with synchronisation: 16 GB/s (tibrezus/xdna-npu-toolkit).
PHOENIX_CORE = KernelRates(
    launch_seconds=2e-4,
    rate=2 * CLOCK / SCALAR_CYCLES,
    dma_bytes_per_second=_MEMORY,
    copy_bytes_per_second=16e9,
    source="published figures of Phoenix, a scalar core program; no such device was measured",
    channel_bytes_per_second=4 * CLOCK,
    short_rows_bytes_per_second=_MEMORY / 5,
)
# The best published INT8 GEMM on Phoenix, all 16 cores (arXiv 2512.13282): the ceiling.
PHOENIX_PEAK = 6.76e12


def physical_limits(dims: ModelDimensions) -> dict[str, float]:
    """Seconds that no software on Phoenix can go below, by what they bound.

    The window's products at the best published rate of the whole array, twice those with int16
    rows, and a token's INT8 weights through its DMA, which is what decoding one sequence waits for.
    """
    window = [build_encoder(dims, precision="int8"), build_cross_kv(dims, precision="int8")]
    operations = sum(
        op_flops(g, op) * ITEM_SIZE[g[op.inputs[0]].dtype]
        for g in window
        for op in g.ops
        if op.kind == "product_int8"
    )
    step = build_step(dims, precision="int8")
    weights = sum(step[op.inputs[2]].nbytes for op in step.ops if op.kind == "product_int8")
    return {
        "products of a window at 6.76 TOPS": operations / PHOENIX_PEAK,
        "weights of a token at 17 GB/s": weights / PHOENIX_CORE.dma_bytes_per_second,
    }
