"""Predicted times, from measured or published rates: what placement is decided by."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from whisper_npu.backends.npu.evidence import Evidence
from whisper_npu.backends.npu.families.gemm import GemmShape
from whisper_npu.backends.npu.families.gemm_stream import gemm_int8_moved
from whisper_npu.backends.npu.families.packing import GemmTile
from whisper_npu.model.builders import build_cross_kv, build_encoder, build_step
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.model.graph import Graph, Op
from whisper_npu.model.report import op_bytes, op_flops


@dataclass(frozen=True)
class HostRates:
    """What NumPy does on this machine: operations and bytes per second."""

    flops: float
    bytes_per_second: float


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


def measured_rates(evidence: Evidence) -> KernelRates:
    """The rates that a verification found on this machine."""
    return KernelRates(
        launch_seconds=evidence.launch_seconds or 0.0,
        rate=evidence.rate or float("inf"),
        dma_bytes_per_second=float("inf"),
        copy_bytes_per_second=evidence.bytes_per_second or float("inf"),
        source=f"measured by kernels verify on {evidence.date[:10]}",
    )


def measure_host() -> HostRates:
    """The rates of this machine, from a product and a copy of a few milliseconds each."""
    a = np.ones((512, 512), np.float32)
    out = np.empty_like(a)
    source = np.ones(1 << 22, np.float32)
    target = np.empty_like(source)
    product, copy = (
        min(_timed(action) for _ in range(5))
        for action in (lambda: np.matmul(a, a, out=out), lambda: np.copyto(target, source))
    )
    return HostRates(2 * 512**3 / product, 2 * source.nbytes / copy)


def _timed(action: object) -> float:
    assert callable(action)
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def numpy_seconds(graph: Graph, op: Op, host: HostRates) -> float:
    """Time of an op on NumPy: the longer of computing and moving.

    An int8 weight is held as float32 there, and read as such.
    """
    moved = op_bytes(graph, op)
    if op.kind == "linear_int8":
        moved += 3 * graph[op.inputs[2]].nbytes
    return max(op_flops(graph, op) / host.flops, moved / host.bytes_per_second)


def gemm_seconds(shape: GemmShape, tile: GemmTile, rates: KernelRates) -> float:
    """Time of a product on a GEMM kernel, the copies of its rows and sums included."""
    m, k, n = shape.padded
    moved = sum(gemm_int8_moved(m, k, n, tile).values())
    computing = max(2 * m * k * n / rates.rate, moved / rates.dma_bytes_per_second)
    copying = (shape.bytes_in + shape.bytes_out) / rates.copy_bytes_per_second
    return rates.launch_seconds + computing + copying


def physical_limits(dims: ModelDimensions) -> dict[str, float]:
    """Seconds that no software on Phoenix can go below, by what they bound.

    The window's products at the best published rate of the whole array, and a token's INT8 weights
    through its DMA, which is what decoding one sequence waits for.
    """
    window = [build_encoder(dims, precision="int8"), build_cross_kv(dims, precision="int8")]
    operations = sum(op_flops(g, op) for g in window for op in g.ops if op.kind == "linear_int8")
    step = build_step(dims, precision="int8")
    weights = sum(step[op.inputs[2]].nbytes for op in step.ops if op.kind == "linear_int8")
    return {
        "products of a window at 6.76 TOPS": operations / PHOENIX_PEAK,
        "weights of a token at 17 GB/s": weights / PHOENIX_CORE.dma_bytes_per_second,
    }
