"""What the plans of a model run on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from whisper_npu.model.graph import Graph
from whisper_npu.runtime.arena import Arena
from whisper_npu.runtime.backend import Backend
from whisper_npu.runtime.placement import Forms, PlacedGraph, Policy, Region, choose, place, settle
from whisper_npu.runtime.usage import Usage


@dataclass(frozen=True)
class Machine:
    """Backends in order of rank, the count of what ran, and the arena: one plan runs at a time."""

    backends: tuple[Backend, ...]
    policy: Policy = "npu"
    usage: Usage = field(default_factory=Usage)
    arena: Arena = field(default_factory=Arena)

    def choose(self, graph: Graph, forms: Forms | None = None) -> tuple[Region, ...]:
        """The regions of a graph, with the states in the forms that they have."""
        return choose(graph, self.backends, self.policy, forms.states if forms else {})

    def settle(self, graphs: Iterable[Graph]) -> Forms:
        """The forms of weights and states for the graphs of a model."""
        listed = list(graphs)
        regions = [self.choose(graph) for graph in listed]
        forms = settle(zip(listed, regions, strict=True))
        if all(_agree(region, forms) for each in regions for region in each):
            return forms
        # A backend that cannot take a state as it is leaves the op to another.
        again = [self.choose(graph, forms) for graph in listed]
        return settle(zip(listed, again, strict=True))

    def place(self, graph: Graph, forms: Forms) -> PlacedGraph:
        """A graph with its placement."""
        return place(graph, self.choose(graph, forms), forms)


def _agree(region: Region, forms: Forms) -> bool:
    """Whether a region takes all states as they are."""
    taken = region.offer.forms
    states = (
        name for op in region.ops for name in (*op.inputs, *op.outputs) if name in forms.states
    )
    return all(forms.states[name] in taken.get(name, (forms.states[name],)) for name in states)
