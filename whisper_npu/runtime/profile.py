"""Where the time of a phase goes, by kind of op: an observer of plans, and what it saw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from time import perf_counter

from whisper_npu.model.graph import Graph, Op
from whisper_npu.model.report import op_flops
from whisper_npu.runtime.backend import Array
from whisper_npu.runtime.placement import PlacedGraph, Region

# How much of the cache or of the embedding these read is not said by their shapes.
_UNCOUNTED = frozenset(
    (
        *("cached_attention", "store_cache", "embed"),
        *("cached_attention_int16", "store_int16", "embed_int32"),
    )
)


@dataclass(frozen=True)
class OpTime:
    """Regions of one phase that are alike: same kinds of op, same shapes of weights, same function.

    ``ops`` are their names in the plan. ``seconds`` is what they took together in one run.
    ``flops`` and ``bytes`` are theirs in one run, of everything that they read and write; None
    where shapes do not say it.
    """

    kind: str
    ops: tuple[str, ...]
    regions: int
    seconds: float
    flops: int | None
    bytes: int | None
    kernel: str
    function: str


class Profile:
    """Times the regions of the plans of one phase: pass it as their observer.

    ``graph`` is the graph of the phase, ``placed`` the same graph with its placement. ``begin`` is
    called before each run. What happens between that and the first region, which is little more
    than the writing of the inputs, is counted as the first region's.

    Seconds are means over the middle half of the runs, by what all regions took together: like
    medians they leave out what was disturbed, and other than medians they add up.
    """

    def __init__(self, graph: Graph, placed: PlacedGraph) -> None:
        # A region that could not be bound is reported op by op.
        self._regions = {op.name: region for region in placed.regions for op in region.ops}
        self._graph, self._placed = graph, placed
        self._runs: list[dict[int, float]] = []
        self._last = 0.0

    def begin(self) -> None:
        """A run begins."""
        self._runs.append(dict.fromkeys(map(id, self._placed.regions), 0.0))
        self._last = perf_counter()

    def __call__(self, name: str, output: Array) -> None:
        now = perf_counter()
        self._runs[-1][id(self._regions[name])] += now - self._last
        self._last = perf_counter()

    @property
    def seconds(self) -> float:
        """What all regions take together."""
        return fmean(sum(run.values()) for run in self._middle())

    def _middle(self) -> list[dict[int, float]]:
        cut = (len(self._runs) + 1) // 4
        runs = sorted(self._runs, key=lambda run: sum(run.values()))
        return runs[cut : len(runs) - cut]

    def times(self) -> tuple[OpTime, ...]:
        """What the regions take, the longest first."""
        runs = self._middle()
        alike: dict[tuple[str, str, str], list[Region]] = {}
        for region in self._placed.regions:
            offer = region.offer
            kind = " + ".join(_label(self._graph, op) for op in region.ops)
            alike.setdefault((kind, offer.kernel, offer.function), []).append(region)
        counted = {id(r): (flops, nbytes) for r, flops, nbytes in self._costs()}
        found = []
        for (kind, kernel, function), regions in alike.items():
            ids = [id(region) for region in regions]
            flops, nbytes = (_sum([counted[each][i] for each in ids]) for i in (0, 1))
            found.append(
                OpTime(
                    kind,
                    tuple(op.name for region in regions for op in region.ops),
                    len(regions),
                    fmean(sum(run[each] for each in ids) for run in runs),
                    flops,
                    nbytes,
                    kernel,
                    function,
                )
            )
        return tuple(sorted(found, key=lambda each: -each.seconds))

    def _costs(self) -> Iterator[tuple[Region, int | None, int | None]]:
        """FLOPs and bytes of each region; bytes as the tensors lie in memory."""
        index = 0
        for region in self._placed.regions:
            ops = self._placed.graph.ops[index : index + len(region.ops)]
            index += len(region.ops)
            if any(op.kind in _UNCOUNTED for op in ops):
                yield region, None, None
                continue
            names = {name for op in ops for name in (*op.inputs, *op.outputs)}
            tensors = [self._placed.graph[name] for name in names]
            nbytes = sum(tensor.nbytes for tensor in tensors if tensor.role != "inner")
            yield region, sum(op_flops(self._graph, op) for op in region.ops), nbytes


def _label(graph: Graph, op: Op) -> str:
    """The kind of an op; that of a product with the shape of its weight."""
    shapes = [graph[name].shape for name in op.inputs if graph[name].role == "weight"]
    if op.kind.startswith(("linear", "conv", "product")):
        return f"{op.kind} {list(next(shape for shape in shapes if len(shape) > 1))}"
    return op.kind


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
