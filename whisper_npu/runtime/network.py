"""What all plans of a model are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from whisper_npu.backends.numpy.specification import Array
from whisper_npu.model.builders import Precision
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.model.graph import Graph
from whisper_npu.runtime.plan import Machine, Plan


@dataclass(frozen=True, eq=False)
class Network:
    """Weights, held once whatever the number of plans, and the machine that plans run on.

    What is made of it refers to it, and it to none of them: so all memory is given back as soon as
    a model is dropped, without waiting for the garbage collector.
    """

    dims: ModelDimensions
    precision: Precision
    weights: Mapping[str, Array]
    machine: Machine

    def plan(self, graph: Graph, states: Mapping[str, Array] | None = None) -> Plan:
        """A graph bound to the weights and to some caches."""
        return Plan(graph, self.weights, states, self.machine)
