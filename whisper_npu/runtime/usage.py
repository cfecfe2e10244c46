"""Which ops ran where, how often and how long: what a result says about its own making."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from whisper_npu.model.graph import Graph
from whisper_npu.results import Fallback, Placement

NUMPY = "numpy"


@dataclass
class Usage:
    """Running totals of a model. ``kernel_ops`` counts by (kind, kernel)."""

    device: str | None = None
    precision: str = "float32"
    runs: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    kernel_ops: Counter[tuple[str, str]] = field(default_factory=Counter)
    launches: int = 0
    bytes_to_device: int = 0
    bytes_from_device: int = 0
    resident_bytes: int = 0
    checks: int = 0
    fallbacks: list[Fallback] = field(default_factory=list)
    _kinds: dict[str, Counter[str]] = field(default_factory=dict)

    def know(self, graph: Graph) -> None:
        """Remember how many ops of each kind a run of this phase has."""
        self._kinds[graph.name] = Counter(op.kind for op in graph.ops)

    def ran(self, phase: str, seconds: float) -> None:
        """A plan of this phase was run."""
        self.runs[phase] += 1
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    def snapshot(self) -> Usage:
        """The totals as they are now."""
        return Usage(
            runs=Counter(self.runs), seconds=dict(self.seconds),
            kernel_ops=Counter(self.kernel_ops), launches=self.launches,
            bytes_to_device=self.bytes_to_device, bytes_from_device=self.bytes_from_device,
            checks=self.checks,
        )  # fmt: skip

    def since(self, before: Usage) -> Placement:
        """What happened after the snapshot ``before``."""
        ops: dict[str, Counter[str]] = {}
        for phase, runs in (self.runs - before.runs).items():
            for kind, count in self._kinds[phase].items():
                ops.setdefault(kind, Counter())[NUMPY] += runs * count
        for (kind, kernel), count in (self.kernel_ops - before.kernel_ops).items():
            # A run that was interrupted is not counted, but what it launched is.
            counts = ops.setdefault(kind, Counter())
            counts[NUMPY] = max(0, counts[NUMPY] - count)
            counts[kernel] += count
        return Placement(
            device=self.device,
            precision=self.precision,
            ops={kind: {b: n for b, n in counts.items() if n} for kind, counts in ops.items()},
            launches=self.launches - before.launches,
            bytes_to_device=self.bytes_to_device - before.bytes_to_device,
            bytes_from_device=self.bytes_from_device - before.bytes_from_device,
            resident_bytes=self.resident_bytes,
            checks=self.checks - before.checks,
            fallbacks=tuple(self.fallbacks),
            seconds={
                phase: seconds - before.seconds.get(phase, 0.0)
                for phase, seconds in self.seconds.items()
                if self.runs[phase] > before.runs[phase]
            },
        )
