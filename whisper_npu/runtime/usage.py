"""Which ops ran where, how often and how long: what a result says about its own making."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from whisper_npu.model.precision import Precision
from whisper_npu.ops.fixed import FRACTION, LARGEST
from whisper_npu.results import Fallback, Placement, Saturation
from whisper_npu.runtime.backend import NUMPY


@dataclass
class Usage:
    """Running totals of a model. ``ops`` counts by (kind, kernel) what plans have run, and ``cuts``
    by (phase, op) the runs in which values were cut.

    ``precision_reason`` says why the precision is what it is; ``instruction_set`` is that of the
    CPU kernels, None without them.
    """

    device: str | None = None
    precision: Precision = "float32"
    precision_reason: str = ""
    instruction_set: str | None = None
    runs: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    ops: Counter[tuple[str, str]] = field(default_factory=Counter)
    launches: int = 0
    bytes_to_device: int = 0
    bytes_from_device: int = 0
    resident_bytes: int = 0
    checks: int = 0
    fallbacks: list[Fallback] = field(default_factory=list)
    cuts: Counter[tuple[str, str]] = field(default_factory=Counter)
    # Of the run that is under way.
    _fell_back: Counter[tuple[str, str]] = field(default_factory=Counter)

    def begin(self) -> None:
        """A run of a plan begins: nothing is left of one that was interrupted."""
        self._fell_back.clear()

    def ran(self, phase: str, ops: Mapping[tuple[str, str], int], seconds: float) -> None:
        """A plan of this phase was run to its end, with these ops as they were placed."""
        self.runs[phase] += 1
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds
        for key, count in ops.items():
            self.ops[key] += count
        for (kind, kernel), count in self._fell_back.items():
            self.ops[kind, kernel] -= count
            self.ops[kind, NUMPY] += count

    def fell_back(self, kind: str, kernel: str) -> None:
        """NumPy computed an op in this run, which was placed on a kernel."""
        self._fell_back[kind, kernel] += 1

    def saturated(self, phase: str, ops: Iterable[str]) -> None:
        """Values were cut in these ops of a run."""
        self.cuts.update((phase, op) for op in ops)

    def snapshot(self) -> Usage:
        """The totals as they are now."""
        return Usage(
            runs=Counter(self.runs), seconds=dict(self.seconds), ops=Counter(self.ops),
            launches=self.launches, bytes_to_device=self.bytes_to_device,
            bytes_from_device=self.bytes_from_device, checks=self.checks, cuts=Counter(self.cuts),
        )  # fmt: skip

    def skip(self, after: Usage, before: Usage) -> None:
        """Let these totals, from which another count begins, leave out what happened between the
        snapshot ``before`` and ``after``."""
        self.runs.update(after.runs - before.runs)
        self.ops.update(after.ops - before.ops)
        self.cuts.update(after.cuts - before.cuts)
        for phase, seconds in after.seconds.items():
            between = seconds - before.seconds.get(phase, 0.0)
            self.seconds[phase] = self.seconds.get(phase, 0.0) + between
        self.launches += after.launches - before.launches
        self.bytes_to_device += after.bytes_to_device - before.bytes_to_device
        self.bytes_from_device += after.bytes_from_device - before.bytes_from_device
        self.checks += after.checks - before.checks

    def since(self, before: Usage) -> Placement:
        """What happened after the snapshot ``before``."""
        ops: dict[str, dict[str, int]] = {}
        for (kind, kernel), total in self.ops.items():
            count = total - before.ops[kind, kernel]
            if count > 0:
                ops.setdefault(kind, {})[kernel] = count
        return Placement(
            device=self.device,
            precision=self.precision,
            precision_reason=self.precision_reason,
            instruction_set=self.instruction_set,
            ops=ops,
            launches=self.launches - before.launches,
            bytes_to_device=self.bytes_to_device - before.bytes_to_device,
            bytes_from_device=self.bytes_from_device - before.bytes_from_device,
            resident_bytes=self.resident_bytes,
            checks=self.checks - before.checks,
            fallbacks=tuple(self.fallbacks),
            saturations=tuple(
                Saturation(phase, op, runs)
                for (phase, op), runs in (self.cuts - before.cuts).items()
            ),
            seconds={
                phase: seconds - before.seconds.get(phase, 0.0)
                for phase, seconds in self.seconds.items()
                if self.runs[phase] > before.runs[phase]
            },
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
