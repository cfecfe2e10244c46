"""What the plans of a model run on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from whisper_npu.model.graph import Graph
from whisper_npu.runtime.arena import Arena
from whisper_npu.runtime.backend import Backend
from whisper_npu.runtime.placement import (
    Forms,
    PlacedGraph,
    Policy,
    Region,
    choose,
    misfit,
    place,
    settle,
)
from whisper_npu.runtime.usage import Usage


class Halted(Exception):
    """A run was asked to end, and did."""


@dataclass
class Halt:
    """Whether the plan that runs is to end as soon as it can, with Halted."""

    asked: bool = False


@dataclass(frozen=True)
class Machine:
    """Backends in order of rank, the count of what ran, and the arena: one plan runs at a time."""

    backends: tuple[Backend, ...]
    policy: Policy = "npu"
    usage: Usage = field(default_factory=Usage)
    arena: Arena = field(default_factory=Arena)
    halt: Halt = field(default_factory=Halt)

    def choose(self, graph: Graph, forms: Forms | None = None) -> tuple[Region, ...]:
        """The regions of a graph, for weights and states in the forms that they have."""
        return choose(graph, self.backends, self.policy, forms)

    def settle(self, graphs: Iterable[Graph]) -> Forms:
        """The forms of weights and states for the graphs of a model."""
        listed = list(graphs)
        regions = [self.choose(graph) for graph in listed]
        forms = settle(zip(listed, regions, strict=True))
        placed = zip(listed, regions, strict=True)
        if all(
            misfit(r.offer, graph, forms.states) is None for graph, each in placed for r in each
        ):
            return forms
        # A backend that cannot take a state as it is leaves the op to another.
        states = Forms(states=forms.states)
        again = [self.choose(graph, states) for graph in listed]
        return Forms(settle(zip(listed, again, strict=True)).weights, forms.states)

    def place(self, graph: Graph, forms: Forms) -> PlacedGraph:
        """A graph with its placement."""
        return place(graph, self.choose(graph, forms), forms)
