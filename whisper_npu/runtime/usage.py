"""Which ops ran where, how often and how long: what a result says about its own making."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from whisper_npu.model.precision import Precision
from whisper_npu.ops.fixed import FRACTION, LARGEST
from whisper_npu.results import Fallback, Placement, Saturation
from whisper_npu.runtime.backend import NUMPY


@dataclass
class Counts:
    """What plans have run: ``ops`` counts by (kind, kernel), ``cuts`` by (phase, op) the runs in
    which values were cut; ``seconds`` are those of each phase."""

    runs: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    ops: Counter[tuple[str, str]] = field(default_factory=Counter)
    launches: int = 0
    bytes_to_device: int = 0
    bytes_from_device: int = 0
    proofs: int = 0
    checks: int = 0
    cuts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, other: Counts, share: float = 1.0) -> None:
        """Count what others have counted as well, with this share of the time."""
        self.runs.update(other.runs)
        self.ops.update(other.ops)
        self.cuts.update(other.cuts)
        for phase, seconds in other.seconds.items():
            self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds * share
        self.launches += other.launches
        self.bytes_to_device += other.bytes_to_device
        self.bytes_from_device += other.bytes_from_device
        self.proofs += other.proofs
        self.checks += other.checks


@dataclass
class Usage:
    """What a model computes with, and the ``counts`` of what it runs.

    ``precision_reason`` says why the precision is what it is; ``instruction_set`` is that of the
    CPU kernels, None without them.
    """

    device: str | None = None
    precision: Precision = "float32"
    precision_reason: str = ""
    instruction_set: str | None = None
    resident_bytes: int = 0
    fallbacks: list[Fallback] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    # Of the run that is under way.
    _fell_back: Counter[tuple[str, str]] = field(default_factory=Counter)

    def begin(self) -> None:
        """A run of a plan begins: nothing is left of one that was interrupted."""
        self._fell_back.clear()

    def ran(self, phase: str, ops: Mapping[tuple[str, str], int], seconds: float) -> None:
        """A plan of this phase was run to its end, with these ops as they were placed."""
        counts = self.counts
        counts.runs[phase] += 1
        counts.seconds[phase] = counts.seconds.get(phase, 0.0) + seconds
        for key, count in ops.items():
            counts.ops[key] += count
        for (kind, kernel), count in self._fell_back.items():
            counts.ops[kind, kernel] -= count
            counts.ops[kind, NUMPY] += count

    def fell_back(self, kind: str, kernel: str) -> None:
        """NumPy computed an op in this run, which was placed on a kernel."""
        self._fell_back[kind, kernel] += 1

    def saturated(self, phase: str, ops: Iterable[str]) -> None:
        """Values were cut in these ops of a run."""
        self.counts.cuts.update((phase, op) for op in ops)

    @contextmanager
    def counted(self, counts: Counts) -> Iterator[None]:
        """Count what is run meanwhile there."""
        before, self.counts = self.counts, counts
        try:
            yield
        finally:
            self.counts = before

    def placement(self, counts: Counts) -> Placement:
        """What these counts say to a user."""
        ops: dict[str, dict[str, int]] = {}
        for (kind, kernel), count in counts.ops.items():
            if count > 0:
                ops.setdefault(kind, {})[kernel] = count
        return Placement(
            device=self.device,
            precision=self.precision,
            precision_reason=self.precision_reason,
            instruction_set=self.instruction_set,
            ops=ops,
            launches=counts.launches,
            bytes_to_device=counts.bytes_to_device,
            bytes_from_device=counts.bytes_from_device,
            resident_bytes=self.resident_bytes,
            proofs=counts.proofs,
            checks=counts.checks,
            fallbacks=tuple(self.fallbacks),
            saturations=tuple(
                Saturation(phase, op, runs) for (phase, op), runs in counts.cuts.items()
            ),
            seconds=dict(counts.seconds),
        )


def notice_of(saturations: Sequence[Saturation]) -> str | None:
    """A line that tells users of saturated ops and what to do; None if there are none."""
    if not saturations:
        return None
    first, *others = dict.fromkeys(each.op for each in saturations)
    where = f"{first} and {len(others)} more" if others else first
    limit = (LARGEST + 1) >> FRACTION
    return (
        f"{where}: values beyond +-{limit} were cut (int8); the text may be wrong; use --precision "
        "float32"
    )
