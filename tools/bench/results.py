"""What was measured, and what it comes to: medians, their spread, ratios."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any


@dataclass(frozen=True)
class Sample:
    """One measurement of a stage: seconds, or MiB of memory. ``load`` is that of the machine."""

    runtime: str
    stage: str
    round: int
    value: float
    disturbed: bool
    load: dict[str, float]


@dataclass(frozen=True)
class Summary:
    """``spread`` is half the distance between the quartiles."""

    median: float
    spread: float
    lowest: float
    highest: float
    n: int
    n_disturbed: int


def summarise(samples: Sequence[Sample]) -> Summary:
    """Of undisturbed samples if there are any. Raises ValueError without samples."""
    calm = [sample.value for sample in samples if not sample.disturbed]
    values = calm or [sample.value for sample in samples]
    if not values:
        raise ValueError("nothing was measured")
    low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return Summary(
        median=median(values),
        spread=(high - low) / 2,
        lowest=min(values),
        highest=max(values),
        n=len(values),
        n_disturbed=len(samples) - len(calm),
    )


class Results:
    """All samples of a run, in the order of the measurements."""

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        self._samples: dict[tuple[str, str], list[Sample]] = {}
        for sample in samples:
            self.add(sample)

    def add(self, sample: Sample) -> None:
        self._samples.setdefault((sample.runtime, sample.stage), []).append(sample)

    @property
    def runtimes(self) -> list[str]:
        """Those of which there are samples, in the order in which they came."""
        return list(dict.fromkeys(runtime for runtime, _ in self._samples))

    def summary(self, runtime: str, stage: str) -> Summary | None:
        """None for what was not measured."""
        samples = self._samples.get((runtime, stage))
        return summarise(samples) if samples else None

    def ratio(self, runtime: str, other: str, stage: str) -> float | None:
        """The median over rounds of a runtime's value over another's in the same round.

        Both ran within the same minutes, so that what changes slowly cancels. None if there is no
        round in which both were measured; undisturbed rounds if there are any.
        """
        mine, theirs = (
            {s.round: s for s in self._samples.get((name, stage), ())} for name in (runtime, other)
        )
        pairs = [(mine[i], theirs[i]) for i in mine.keys() & theirs.keys()]
        calm = [pair for pair in pairs if not any(sample.disturbed for sample in pair)]
        ratios = [a.value / b.value for a, b in calm or pairs]
        return median(ratios) if ratios else None

    def to_list(self) -> list[dict[str, Any]]:
        return [asdict(sample) for samples in self._samples.values() for sample in samples]
