"""Choosing, for every op, where it runs: a verified kernel that is worth it, or NumPy, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from whisper_npu.backends.npu.families.gemm import GEMM_FAMILY, gemm_shape
from whisper_npu.backends.npu.families.packing import GemmTile
from whisper_npu.backends.npu.manager import FAILED, UNVERIFIED, VERIFIED, KernelStatus
from whisper_npu.backends.npu.registry import Entry
from whisper_npu.errors import KernelError
from whisper_npu.model.graph import Graph, Op
from whisper_npu.runtime.accelerator import KINDS, product_shape
from whisper_npu.runtime.cost import HostRates, KernelRates, gemm_seconds, numpy_seconds
from whisper_npu.runtime.usage import NUMPY

Policy = Literal["auto", "npu"]


@dataclass(frozen=True)
class PlannedOp:
    """Where an op runs and why. Bytes and launches are for one run; ``seconds`` is predicted.

    ``weight`` names what is resident for it, None on NumPy.
    """

    phase: str
    op: str
    kind: str
    backend: str
    reason: str
    launches: int
    bytes_in: int
    bytes_out: int
    resident_bytes: int
    seconds: float
    weight: str | None = None


def on_cpu_kernels(ops: Iterable[PlannedOp], kernels: Mapping[str, str]) -> Iterator[PlannedOp]:
    """The same ops, those that are left to NumPy on the CPU's kernel (by kind) where there is one.

    What a CPU kernel takes is not predicted: ``seconds`` stay NumPy's.
    """
    for op in ops:
        if op.backend == NUMPY and op.kind in kernels:
            op = replace(op, backend=kernels[op.kind], reason="verified on this CPU; ms of NumPy")
        yield op


@dataclass(frozen=True)
class Candidate:
    """A kernel for quantised products, and what it is expected to do."""

    status: KernelStatus
    rates: KernelRates

    @property
    def tile(self) -> GemmTile:
        """The tile of its contract."""
        return GemmTile(**self.status.entry.contract.tile)


class Planner:
    """Places ops. ``kernels`` are all there are, ``rates`` those of the verified ones by name.

    ``auto`` takes a kernel where it is predicted to be faster, ``npu`` wherever there is one.
    """

    def __init__(
        self,
        kernels: Iterable[KernelStatus],
        rates: Mapping[str, KernelRates],
        host: HostRates,
        policy: Policy = "auto",
    ) -> None:
        gemms = [kernel for kernel in kernels if kernel.entry.contract.family == GEMM_FAMILY]
        self._usable = [Candidate(k, rates[k.name]) for k in gemms if k.name in rates]
        self._refused = [k for k in gemms if k.name not in rates]
        self._host, self._policy = host, policy

    def choose(self, graph: Graph, op: Op) -> Entry | None:
        """The kernel that an op is for, or None for NumPy."""
        placed, candidate = self._place(graph, op)
        return None if placed.backend == NUMPY or candidate is None else candidate.status.entry

    def plan(self, graph: Graph) -> Iterator[PlannedOp]:
        """Every op of a graph, in order."""
        for op in graph.ops:
            yield self._place(graph, op)[0]

    def kernels(self, graphs: Sequence[Graph]) -> list[Entry]:
        """The kernels that ops of these graphs are for."""
        chosen = (self.choose(graph, op) for graph in graphs for op in graph.ops)
        return list({entry.contract.name: entry for entry in chosen if entry}.values())

    def describe_rates(self) -> list[str]:
        """What predictions are made of, as text."""
        host = self._host
        lines = [
            f"NumPy here: {host.flops / 1e9:.0f} GFLOPS, {host.bytes_per_second / 1e9:.1f} GB/s "
            "(measured now)"
        ]
        for candidate in self._usable:
            r = candidate.rates
            lines.append(
                f"{candidate.status.name}: {r.launch_seconds * 1e6:.0f} us a launch, "
                f"{r.rate / 1e9:.0f} GOPS, DMA {r.dma_bytes_per_second / 1e9:.0f} GB/s, copies "
                f"{r.copy_bytes_per_second / 1e9:.1f} GB/s ({r.source})"
            )
        return lines

    def require(self, graphs: Sequence[Graph]) -> None:
        """Raise KernelError that lists every op that no kernel can run, if there are any."""
        missing: dict[str, list[str]] = {}
        for placed in (placed for graph in graphs for placed in self.plan(graph)):
            if placed.kind in KINDS and placed.backend == NUMPY:
                missing.setdefault(placed.reason, []).append(f"{placed.phase}/{placed.op}")
        if missing:
            count = sum(map(len, missing.values()))
            listed = "; ".join(f"{', '.join(ops)}: {why}" for why, ops in missing.items())
            raise KernelError(
                f"{count} ops cannot run on the NPU ({listed}); verify its kernels with "
                "whisper-npu kernels verify, or let NumPy run them with --allow_fallback"
            )

    def _place(self, graph: Graph, op: Op) -> tuple[PlannedOp, Candidate | None]:
        on_numpy = numpy_seconds(graph, op, self._host)

        def numpy(reason: str) -> tuple[PlannedOp, None]:
            return PlannedOp(
                graph.name, op.name, op.kind, NUMPY, reason, 0, 0, 0, 0, on_numpy
            ), None

        if op.kind == "linear":
            return numpy("float32; kernels take int8 (--precision int8)")
        if op.kind not in KINDS:
            return numpy(f"no kernel is used for {op.kind}")
        if not self._usable:
            return numpy(self._why_none())
        sizes = product_shape(graph, op)
        timed = [
            (gemm_seconds(gemm_shape(c.tile, *sizes), c.tile, c.rates), c) for c in self._usable
        ]
        seconds, best = min(timed, key=lambda pair: pair[0])
        if self._policy == "auto" and seconds >= on_numpy:
            return numpy(
                f"faster: {on_numpy * 1e3:.2f} ms, {seconds * 1e3:.2f} ms on {best.status.name}"
            )
        shape = gemm_shape(best.tile, *sizes)
        known = "verified" if best.status.state == VERIFIED else "taken to be verified"
        reason = f"{known}; {on_numpy * 1e3:.2f} ms on NumPy"
        return (
            PlannedOp(
                graph.name, op.name, op.kind, best.status.name, reason, 1,
                shape.bytes_in, shape.bytes_out, shape.resident_bytes, seconds, op.inputs[2],
            ),
            best,
        )  # fmt: skip

    def _why_none(self) -> str:
        if not self._refused:
            return "the registry has no kernel for it"
        return "; ".join(f"{kernel.name} {_state(kernel)}" for kernel in self._refused)


def _state(kernel: KernelStatus) -> str:
    absent = [what for what, status in kernel.files.items() if status != "present"]
    if kernel.state == UNVERIFIED and absent:
        return f"is unverified, its {' and '.join(absent)} absent"
    return kernel.state if kernel.state == FAILED else f"is {kernel.state}"
