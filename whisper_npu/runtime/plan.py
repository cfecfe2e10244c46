"""A plan carries a placement out: it binds a graph to memory and to steps, once.

Running a plan makes no decisions, looks nothing up and allocates no large arrays.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from whisper_npu.errors import KernelError
from whisper_npu.model.graph import ITEM_SIZE, Graph, Tensor
from whisper_npu.runtime.arena import Block, lay_out
from whisper_npu.runtime.backend import Array, Bound, Form, Step, function_of, inner_tensors
from whisper_npu.runtime.machine import Halted, Machine
from whisper_npu.runtime.placement import (
    Forms,
    Region,
    form_of,
    place,
    replacement,
)

Observer = Callable[[str, Array], None]
_SCRATCH = "scratch of "


class WeightSource(Protocol):
    """Gives weights in forms; ``runtime.weights.Weights`` is one."""

    def get(self, name: str, form: Form) -> Array:
        """A weight in a form. Raises KernelError where memory of a backend cannot be had."""
        ...


class Plan:
    """A graph bound to its weights, its state and an arena of inputs and activations.

    ``states`` maps names to arrays of the graph's shapes (views too). Calling a plan writes its
    inputs and runs it; outputs are read from ``outputs[name]`` after it and hold until the next
    run. ``graph`` is the graph as it lies in memory: each tensor has the dtype, shape and order of
    its array. ``regions`` is the placement that is carried out.
    """

    def __init__(
        self,
        graph: Graph,
        weights: WeightSource,
        states: Mapping[str, Array],
        machine: Machine,
        forms: Forms | None = None,
    ) -> None:
        self._usage, self._halt = machine.usage, machine.halt
        forms = machine.settle([graph]) if forms is None else forms
        regions = machine.choose(graph, forms)
        memory = _Memory(graph, regions, machine, states, forms)
        self.arena_bytes = memory.nbytes
        self._steps: list[Step] = []
        self._arrays: dict[str, Array] = dict(memory.arrays)
        bound: list[Region] = []
        waiting = list(regions)
        while waiting:
            region = waiting.pop(0)
            try:
                arrays = _weights_of(region, graph, weights, forms)
                arrays.update(memory.of(region))
                inner = inner_tensors(graph, region.ops) if len(region.ops) > 1 else ()
                scratch = memory.scratch.get(region.ops[0].name)
                step = region.offer.bind(Bound(region.ops, arrays, scratch, inner))
            except KernelError as error:
                backend = {b.name: b for b in machine.backends}[region.offer.backend]
                backend.failed(graph, region.offer, error)
                others = replacement(region, graph, machine.backends, forms)
                memory.replace(region, others)
                self._arrays.update(memory.arrays)
                waiting[:0] = others
                continue
            bound.append(region)
            self._steps.append(step)
        placed = place(graph, bound, forms)
        self.graph, self.regions = placed.graph, placed.regions
        self._counts = Counter((op.kind, r.offer.kernel) for r in bound for op in r.ops)
        for name, (weight, form) in placed.weights.items():
            self._arrays[name] = weights.get(weight, form)
        self._inputs = {tensor.name: self._arrays[tensor.name] for tensor in graph.role("input")}
        self.outputs = {tensor.name: self._arrays[tensor.name] for tensor in graph.role("output")}
        self._events = memory.events
        # What runs when nobody looks at single regions.
        self._joined = self._steps
        for each in machine.backends:
            self._joined = each.join(self._joined)

    @property
    def functions(self) -> tuple[str, ...]:
        """The function that each region called in the last run, read off the steps themselves."""
        return tuple(map(function_of, self._steps))

    def __call__(self, observe: Observer | None = None, **inputs: Any) -> None:
        """Write the inputs and run all ops.

        ``observe(op name, first output)`` is called after each region, with its last op, if given;
        it must not run a plan. Raises Halted if the machine is asked to halt.
        """
        # All of them: nothing is left of those of the last run.
        for name, array in self._inputs.items():
            array[...] = inputs[name]
        self._usage.begin()
        began = perf_counter()
        if observe is None:
            for step in self._joined:
                if self._halt.asked:
                    raise Halted
                step()
        else:
            for region, step in zip(self.regions, self._steps, strict=True):
                step()
                op = region.ops[-1]
                observe(op.name, self._arrays[op.outputs[0]])
        self._usage.ran(self.graph.name, self._counts, perf_counter() - began)
        if self._events.words.any():
            self._usage.saturated(self.graph.name, self._events.happened())


def _weights_of(
    region: Region, graph: Graph, weights: WeightSource, forms: Forms
) -> dict[str, Array]:
    return {
        name: weights.get(name, form_of(region.offer, graph[name], forms))
        for op in region.ops
        for name in op.inputs
        if graph[name].role == "weight"
    }


class _Events:
    """The events of a graph, in one piece of memory, as all of them are looked at after a run."""

    def __init__(self, graph: Graph) -> None:
        writers = {name: op.name for op in graph.ops for name in op.outputs}
        tensors = graph.role("event")
        self.words = np.zeros(len(tensors), np.int32)
        self.arrays = {
            tensor.name: self.words[i : i + 1].reshape(()) for i, tensor in enumerate(tensors)
        }
        self._ops = [writers[tensor.name] for tensor in tensors]

    def happened(self) -> list[str]:
        """The ops in which it did."""
        return [self._ops[i] for i in np.flatnonzero(self.words)]


class _Memory:
    """The arrays of all tensors but weights, and scratch: offsets in the arena by liveness.

    A region needs its inputs until its end, and its outputs from its beginning.
    """

    def __init__(
        self,
        graph: Graph,
        regions: Sequence[Region],
        machine: Machine,
        states: Mapping[str, Array],
        forms: Forms,
    ) -> None:
        self._graph, self._regions = graph, regions
        self._over = self._in_place()
        layout = lay_out(self.blocks())
        self.nbytes = layout.nbytes
        arena = machine.arena.take(layout.nbytes)

        def cut(name: str, shape: tuple[int, ...], dtype: str) -> Array:
            start = layout.offsets[self._over.get(name, name)]
            nbytes = math.prod(shape) * ITEM_SIZE[dtype]
            return arena[start : start + nbytes].view(dtype).reshape(shape)

        self.events = _Events(graph)
        self.arrays: dict[str, Array] = dict(self.events.arrays)
        inner = self._inner()
        for tensor in graph.tensors:
            if tensor.role == "state":
                form = forms.states.get(tensor.name, Form(tensor.dtype))
                self.arrays[tensor.name] = _state(tensor, form, states)
            elif tensor.role == "output":
                self.arrays[tensor.name] = np.empty(tensor.shape, tensor.dtype)
            elif tensor.role in ("input", "activation") and tensor.name not in inner:
                self.arrays[tensor.name] = cut(tensor.name, tensor.shape, tensor.dtype)
        self.scratch = {
            region.ops[0].name: cut(_SCRATCH + region.ops[0].name, shape, "float32")
            for region in regions
            if (shape := region.offer.scratch) is not None
        }

    def of(self, region: Region) -> dict[str, Array]:
        """The arrays that a region reads and writes, without those of its inner tensors."""
        several = len(region.ops) > 1
        inner = {t.name for t in inner_tensors(self._graph, region.ops)} if several else ()
        names = (name for op in region.ops for name in (*op.inputs, *op.outputs))
        return {n: self.arrays[n] for n in names if n in self.arrays and n not in inner}

    def replace(self, region: Region, others: Sequence[Region]) -> None:
        """Memory for regions that run the ops of one that failed, beside the arena: scratch, and
        tensors that lie within that region or over its input."""
        self.scratch.pop(region.ops[0].name, None)
        over = region.offer.in_place and not others[-1].offer.in_place
        for tensor in inner_tensors(self._graph, region.ops):
            self.arrays[tensor.name] = np.empty(tensor.shape, tensor.dtype)
        for other in others:
            if other.offer.scratch is not None:
                self.scratch[other.ops[0].name] = np.empty(other.offer.scratch, np.float32)
        output = self._graph[region.ops[-1].outputs[0]]
        if over and output.name in self._over:
            self.arrays[output.name] = np.empty(output.shape, output.dtype)

    def _inner(self) -> set[str]:
        several = (region.ops for region in self._regions if len(region.ops) > 1)
        return {tensor.name for ops in several for tensor in inner_tensors(self._graph, ops)}

    def _ends(self) -> list[tuple[int, int]]:
        """For each op the first and the last op of its region."""
        ends: list[tuple[int, int]] = []
        for region in self._regions:
            count = len(region.ops)
            ends += [(len(ends), len(ends) + count - 1)] * count
        return ends

    def _in_place(self) -> dict[str, str]:
        """The tensors that are written over another, and the first in the place of each."""
        graph, over, index = self._graph, dict[str, str](), 0
        for region in self._regions:
            index += len(region.ops)
            if not region.offer.in_place:
                continue
            source, target = region.ops[0].inputs[0], region.ops[-1].outputs[0]
            both = {graph[name].role for name in (source, target)} == {"activation"}
            both = both and graph[source].nbytes == graph[target].nbytes
            if both and graph.lifetimes[source][1] == index - 1:
                over[target] = over.get(source, source)
        return over

    def blocks(self) -> dict[str, Block]:
        """What is needed of the arena, and from which op to which."""
        graph, ends, inner = self._graph, self._ends(), self._inner()
        blocks: dict[str, Block] = {}
        # In the order in which they are written: the last in a place is the last that needs it.
        for name, (first, last) in graph.lifetimes.items():
            if graph[name].role != "output" and name not in inner:
                at = self._over.get(name, name)
                begins = blocks[at].first if at in blocks else ends[first][0]
                blocks[at] = Block(graph[name].nbytes, begins, ends[last][1])
        for index, op in enumerate(graph.ops):
            for name in op.inputs:
                if graph[name].role == "input":
                    blocks[name] = Block(graph[name].nbytes, 0, ends[index][1])
        index = 0
        for region in self._regions:
            if region.offer.scratch is not None:
                nbytes = 4 * math.prod(region.offer.scratch)
                last = index + len(region.ops) - 1
                blocks[_SCRATCH + region.ops[0].name] = Block(nbytes, index, last)
            index += len(region.ops)
        return blocks


def _state(tensor: Tensor, form: Form, states: Mapping[str, Array]) -> Array:
    array = states[tensor.name]
    if array.shape != tensor.shape or array.dtype != form.dtype:
        raise ValueError(
            f"state {tensor.name} is {array.dtype} {array.shape}, not {form.dtype} {tensor.shape}"
        )
    return array
