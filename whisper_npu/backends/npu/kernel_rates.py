"""What kernels do on a device, measured by a verification or as published."""

from __future__ import annotations

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
    where they are from.
    """

    launch_seconds: float
    rate: float
    dma_bytes_per_second: float
    copy_bytes_per_second: float
    source: str


# A Phoenix laptop as published, with our GEMM on one core of one column:
# * a launch from Python with a reused run object: 0.2 ms (amd/IRON, whisper_pipeline.py);
# * one AIE2 core has 256 int8 multiply-accumulates per cycle (AM020), 1.3 GHz at the middle power
#   level (amd/xdna-driver npu1_regs.c); compiled kernels reach 29 to 43 % of that
#   (nod-ai/iree-amd-aie issue 1198): a third is taken;
# * DMA of about 17 GB/s sustained (derived from amd/IRON's GEMM table for NPU1);
# * copying into host_only buffers with synchronisation: 16 GB/s (tibrezus/xdna-npu-toolkit).
PHOENIX_CORE = KernelRates(
    launch_seconds=2e-4,
    rate=256 * 2 * 1.309e9 / 3,
    dma_bytes_per_second=17e9,
    copy_bytes_per_second=16e9,
    source="published figures of Phoenix; no such device was measured",
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
