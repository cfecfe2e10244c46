"""What all plans of a model are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from whisper_npu.model.dims import ModelDimensions
from whisper_npu.model.graph import Graph
from whisper_npu.model.precision import Precision
from whisper_npu.ops.probabilities import FLOATS, INTEGERS, Probabilities
from whisper_npu.runtime.backend import Array, Form
from whisper_npu.runtime.machine import Machine
from whisper_npu.runtime.placement import Forms
from whisper_npu.runtime.plan import Plan
from whisper_npu.runtime.weights import Weights


@dataclass(frozen=True, eq=False)
class Network:
    """Weights, held once for each form that plans want, and the machine that plans run on.

    ``states`` are the forms of the caches. Plans hold this object; it holds no plans, so that there
    are no reference cycles and all memory is given back as soon as a model is dropped.
    """

    dims: ModelDimensions
    precision: Precision
    weights: Weights
    states: Mapping[str, Form]
    machine: Machine

    @property
    def probabilities(self) -> Probabilities:
        """The functions that compute probabilities of the logits."""
        return INTEGERS if self.precision == "int8" else FLOATS

    def plan(self, graph: Graph, states: Mapping[str, Array] | None = None) -> Plan:
        """A graph bound to the weights and to some caches."""
        forms = Forms(self.weights.forms, self.states)
        return Plan(graph, self.weights, states or {}, self.machine, forms)
