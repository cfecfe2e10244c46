"""A plan binds a graph to memory and to the functions that run it, once.

Running a plan makes no decisions, looks nothing up and allocates no large arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from whisper_npu.backends.numpy.fast import fast_step
from whisper_npu.backends.numpy.specification import BINDERS, Array, Bound, scratch_shape
from whisper_npu.model.graph import ITEM_SIZE, Graph, Tensor
from whisper_npu.runtime.arena import Arena, Block, lay_out
from whisper_npu.runtime.usage import Usage

if TYPE_CHECKING:
    from whisper_npu.backends.cpu.kernels import CpuKernels
    from whisper_npu.runtime.accelerator import Accelerator

Observer = Callable[[str, Array], None]
_SCRATCH = "scratch of "
# Ops that may write over their first input: NumPy and the kernels for CPUs do either, and none of
# them is for an NPU, which computes again from the inputs what it is not trusted with.
_IN_PLACE = ("gelu", "add")


@dataclass(frozen=True)
class Machine:
    """What the plans of a model share: kernels, if there are any, the count of what ran, and the
    arena, as one plan runs at a time."""

    usage: Usage = field(default_factory=Usage)
    accelerator: Accelerator | None = None
    cpu: CpuKernels | None = None
    arena: Arena = field(default_factory=Arena)


class Plan:
    """A graph bound to its weights, its state and an arena of inputs and activations.

    ``weights`` and ``states`` map tensor names to arrays of the graph's shapes (a state may be a
    view; a convolution's weights are given as the matrix of ``ops.linear.conv_matrix``). Calling a
    plan writes its inputs and runs it; outputs are read from ``outputs[name]`` after it and hold
    until the next run. ``machine`` is what the ops run on: NumPy alone, if not given.
    """

    def __init__(
        self,
        graph: Graph,
        weights: Mapping[str, Array],
        states: Mapping[str, Array] | None = None,
        machine: Machine | None = None,
    ) -> None:
        machine = machine or Machine()
        self.graph = graph
        self._usage = machine.usage
        self._usage.know(graph)
        # Kernels have scratch of their own; where NumPy stands in for one, it allocates.
        kernels = frozenset() if machine.cpu is None else machine.cpu.kinds
        self._scratch = {
            op.name: shape
            for op in graph.ops
            if op.kind not in kernels and (shape := scratch_shape(op, graph)) is not None
        }
        self._over = self._in_place()
        layout = lay_out(self._blocks())
        self.arena_bytes = layout.nbytes
        arena = machine.arena.take(layout.nbytes)

        def place(name: str, shape: tuple[int, ...], dtype: str) -> Array:
            start = layout.offsets[self._over.get(name, name)]
            nbytes = math.prod(shape) * ITEM_SIZE[dtype]
            return arena[start : start + nbytes].view(dtype).reshape(shape)

        arrays: dict[str, Array] = {}
        for tensor in graph.tensors:
            if tensor.role == "weight":
                arrays[tensor.name] = weights[tensor.name]
            elif tensor.role == "state":
                arrays[tensor.name] = self._state(tensor, states or {})
            elif tensor.role == "output":
                arrays[tensor.name] = np.empty(tensor.shape, tensor.dtype)
            else:
                arrays[tensor.name] = place(tensor.name, tensor.shape, tensor.dtype)
        self._inputs = {tensor.name: arrays[tensor.name] for tensor in graph.role("input")}
        self.outputs = {tensor.name: arrays[tensor.name] for tensor in graph.role("output")}
        self._steps = []
        for op in graph.ops:
            shape = self._scratch.get(op.name)
            bound = Bound(
                op,
                tuple(arrays[name] for name in op.inputs),
                tuple(arrays[name] for name in op.outputs),
                None if shape is None else place(_SCRATCH + op.name, shape, "float32"),
            )
            step = specified = BINDERS[op.kind](bound)
            if machine.cpu is not None:
                step = machine.cpu.bind(graph, bound, specified)
            if step is specified:
                step = fast_step(bound, specified)
            if machine.accelerator is not None:
                step = machine.accelerator.bind(graph, bound, step)
            self._steps.append(step)
        # What runs when nobody looks at single ops.
        self._joined = self._steps if machine.cpu is None else machine.cpu.join(self._steps)
        self._arrays = arrays

    def _in_place(self) -> dict[str, str]:
        """The tensors that are written over another, and the first in the place of each."""
        over: dict[str, str] = {}
        for index, op in enumerate(self.graph.ops):
            source, target = op.inputs[0], op.outputs[0]
            both = {self.graph[name].role for name in (source, target)} == {"activation"}
            if op.kind in _IN_PLACE and both and self.graph.lifetimes[source][1] == index:
                over[target] = over.get(source, source)
        return over

    def _blocks(self) -> dict[str, Block]:
        blocks: dict[str, Block] = {}
        # In the order in which they are written: the last in a place is the last that needs it.
        for name, (first, last) in self.graph.lifetimes.items():
            if self.graph[name].role != "output":
                place = self._over.get(name, name)
                first = blocks[place].first if place in blocks else first
                blocks[place] = Block(self.graph[name].nbytes, first, last)
        for index, op in enumerate(self.graph.ops):
            for name in op.inputs:
                if self.graph[name].role == "input":
                    blocks[name] = Block(self.graph[name].nbytes, 0, index)
            if op.name in self._scratch:
                nbytes = 4 * math.prod(self._scratch[op.name])
                blocks[_SCRATCH + op.name] = Block(nbytes, index, index)
        return blocks

    @staticmethod
    def _state(tensor: Tensor, states: Mapping[str, Array]) -> Array:
        array = states[tensor.name]
        if array.shape != tensor.shape:
            raise ValueError(f"state {tensor.name} is {array.shape}, not {tensor.shape}")
        return array

    def __call__(self, observe: Observer | None = None, **inputs: Any) -> None:
        """Write the inputs and run all ops.

        ``observe(op name, first output)`` is called after each if given; it must not run a plan.
        """
        # All of them: nothing is left of those of the last run.
        for name, array in self._inputs.items():
            array[...] = inputs[name]
        began = perf_counter()
        if observe is None:
            for step in self._joined:
                step()
        else:
            for op, step in zip(self.graph.ops, self._steps, strict=True):
                step()
                observe(op.name, self._arrays[op.outputs[0]])
        self._usage.ran(self.graph.name, perf_counter() - began)
