"""Which ops are placed on the NPU, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.support.npu.entries import contract
from tests.support.npu.gemm_kernels import LARGE, SMALL, evidence_of, gemm_entry
from tests.unit.accelerated import DIMS
from whisper_npu.backends.npu.backend import NpuBackend
from whisper_npu.backends.npu.families.gemm import gemm_seconds, gemm_shape, product_shape
from whisper_npu.backends.npu.kernel_rates import KernelRates
from whisper_npu.backends.npu.manager import UNVERIFIED, VERIFIED, KernelStatus
from whisper_npu.backends.npu.packing import GemmTile
from whisper_npu.backends.npu.registry import FileStatus
from whisper_npu.backends.npu.software import SoftwareDevice
from whisper_npu.backends.numpy import numpy_backends
from whisper_npu.backends.numpy.host_rates import HostRates
from whisper_npu.model.builders import PHASES, build_phase
from whisper_npu.model.graph import Graph
from whisper_npu.runtime.placement import PlacedOp, Policy, choose, placed_ops
from whisper_npu.runtime.usage import Usage

HOST = HostRates(flops=1e9, bytes_per_second=1e9)
FAST = KernelRates(1e-6, 1e12, 1e12, 1e12, "test")
SLOW = KernelRates(10.0, 1e12, 1e12, 1e12, "test")
GRAPHS = {phase: build_phase(phase, DIMS, precision="int8") for phase in PHASES}
IDENTITY = SoftwareDevice().identity


def status(
    rows: int, state: str = VERIFIED, files: dict[str, FileStatus] | None = None
) -> KernelStatus:
    entry = gemm_entry(rows)
    evidence = None if state == UNVERIFIED else evidence_of(IDENTITY, entry)
    return KernelStatus(entry, files or {}, state, evidence)


class Planner:
    """Places graphs on an NPU with some kernels, and NumPy."""

    def __init__(
        self,
        rates: dict[str, KernelRates],
        policy: Policy = "auto",
        statuses: Sequence[KernelStatus] = (status(64), status(16)),
        host: HostRates = HOST,
    ) -> None:
        self.npu = NpuBackend(None, statuses, rates, Usage())
        self.host, self.policy = host, policy

    def plan(self, graph: Graph) -> list[PlacedOp]:
        backends = (self.npu, *numpy_backends(self.host))
        return list(placed_ops(choose(graph, backends, self.policy)))


planner = Planner


def products(planner: Planner, phase: str) -> list[PlacedOp]:
    return [op for op in planner.plan(GRAPHS[phase]) if op.kind == "product_int8"]


def test_every_op_is_planned_in_order() -> None:
    for graph in GRAPHS.values():
        planned = list(planner({LARGE: FAST}).plan(graph))
        assert [(op.op, op.kind, op.phase) for op in planned] == [
            (op.name, op.kind, graph.name) for op in graph.ops
        ]


@pytest.mark.parametrize("policy", ["auto", "npu"])
def test_only_products_of_integers_are_placed(policy: Policy) -> None:
    for graph in GRAPHS.values():
        for op in planner({LARGE: FAST}, policy).plan(graph):
            if op.kind != "product_int8":
                assert op.backend == "numpy"
                assert op.reason == f"no kernel is used for {op.kind}"
                assert (op.launches, op.bytes_in, op.bytes_out, op.resident_bytes) == (0, 0, 0, 0)
                assert op.weight is None
    float32 = build_phase("step", DIMS)
    linear = [op for op in planner({LARGE: FAST}, policy).plan(float32) if op.kind == "linear"]
    assert {op.reason for op in linear} == {"float32; kernels take int8 (--precision int8)"}
    assert {op.backend for op in linear} == {"numpy"}


def test_auto_takes_what_is_faster() -> None:
    graph = GRAPHS["encoder"]
    op = next(op for op in graph.ops if op.name == "encoder.0.fc1")
    shape = gemm_shape(GemmTile(64, 64, 64), *product_shape(graph, op))
    rates = replace(FAST, launch_seconds=1e-5)
    on_kernel = gemm_seconds(shape, GemmTile(64, 64, 64), rates)
    on_numpy = HOST.seconds(graph, op)
    assert on_kernel < on_numpy
    even = replace(rates, launch_seconds=1e-5 + on_numpy - on_kernel)
    for launch, backend in (
        (rates.launch_seconds, LARGE),
        (0.999 * even.launch_seconds, LARGE),
        (1.001 * even.launch_seconds, "numpy"),
    ):
        chosen = planner({LARGE: replace(rates, launch_seconds=launch)}).plan(graph)
        (found,) = (planned for planned in chosen if planned.op == op.name)
        assert found.backend == backend
    # As fast as it gets, on either side.
    none = HostRates(flops=1e30, bytes_per_second=1e30)
    zero = KernelRates(0.0, 1e300, 1e300, 1e300, "test")
    assert {p.backend for p in products(planner({LARGE: SLOW}, host=none), "step")} == {"numpy"}
    assert {p.backend for p in products(planner({LARGE: zero}), "step")} == {LARGE}


def test_reasons_have_the_times() -> None:
    slow = products(planner({LARGE: SLOW}), "step")
    assert slow[0].reason.startswith("faster: 0.0")
    assert slow[0].reason.endswith(f" ms, 10000.00 ms on {LARGE}")
    fast = products(planner({LARGE: FAST}), "encoder")
    assert fast[0].reason.startswith("verified; ")
    assert fast[0].reason.endswith(" ms on NumPy")


def test_npu_takes_a_kernel_however_slow() -> None:
    chosen = planner({LARGE: SLOW}, "npu")
    for phase in ("encoder", "cross_kv", "prefill", "step"):
        assert {op.backend for op in products(chosen, phase)} == {LARGE}
        assert all(op.seconds > 10 for op in products(chosen, phase))


@pytest.mark.parametrize("policy", ["auto", "npu"])
def test_the_faster_of_two_kernels(policy: Policy) -> None:
    """The one with less padding for one row, the one that moves less for many."""
    moving = replace(FAST, dma_bytes_per_second=1e9)
    both = planner({LARGE: moving, SMALL: moving}, policy, host=HostRates(1e5, 1e5))
    assert {op.backend for op in products(both, "step")} == {SMALL}
    wide = build_phase("encoder", replace(DIMS, n_audio_ctx=1500), precision="int8")
    placed = {op.backend for op in both.plan(wide) if op.kind == "product_int8"}
    assert placed == {LARGE}


def test_what_moves_and_what_stays() -> None:
    for op in products(planner({SMALL: FAST}, "npu"), "step"):
        graph_op = next(o for o in GRAPHS["step"].ops if o.name == op.op)
        m, k, n = product_shape(GRAPHS["step"], graph_op)
        padded_k, padded_n = -(-k // 64) * 64, -(-n // 64) * 64
        # A row of int16 is two of int8.
        assert m == 2
        assert op.launches == 1
        assert (op.bytes_in, op.bytes_out) == (16 * padded_k, 4 * 16 * padded_n)
        assert op.resident_bytes == padded_k * padded_n
        assert op.weight == graph_op.inputs[2]


def test_no_kernel_is_known() -> None:
    other = KernelStatus(replace(gemm_entry(64), contract=contract()), {}, VERIFIED, None)
    found = products(planner({"mine": FAST}, "npu", [other]), "step")
    assert {(op.backend, op.reason) for op in found} == {
        ("numpy", "the registry has no kernel for it")
    }


def test_a_described_kernel_is_not_called_verified() -> None:
    found = products(planner({LARGE: FAST}, "npu", [status(64, UNVERIFIED)]), "step")
    assert all(op.reason.startswith("taken to be verified; ") for op in found)


def test_rates_are_described() -> None:
    rates = {LARGE: replace(FAST, launch_seconds=2e-4, source="a source")}
    assert planner(rates).npu.describe_rates() == [
        f"{LARGE}: 200 us a launch, 1000 GOPS, DMA 1000 GB/s, copies 1000.0 GB/s (a source)",
    ]
