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

from whisper_npu.model.graph import ITEM_SIZE, Graph, Tensor
from whisper_npu.runtime.arena import Block, lay_out
from whisper_npu.runtime.fast_ops import fast_step
from whisper_npu.runtime.numpy_ops import BINDERS, Array, Bound, scratch_shape
from whisper_npu.runtime.usage import Usage

if TYPE_CHECKING:
    from whisper_npu.cpu.kernels import CpuKernels
    from whisper_npu.runtime.accelerator import Accelerator

Observer = Callable[[str, Array], None]
_SCRATCH = "scratch of "


@dataclass(frozen=True)
class Machine:
    """What the plans of a model share: kernels, if there are any, and the count of what ran."""

    usage: Usage = field(default_factory=Usage)
    accelerator: Accelerator | None = None
    cpu: CpuKernels | None = None


class Plan:
    """A graph bound to its weights, its state and one arena of activations.

    ``weights`` and ``states`` map tensor names to arrays of the graph's shapes (a state may be a
    view; a convolution's weights are given as the matrix of ``ops.linear.conv_matrix``). Inputs
    are written into ``inputs[name]`` before ``run``; outputs are read from ``outputs[name]``
    after it and hold until the next run. ``machine`` is what the ops run on: NumPy alone, if not
    given.
    """

    def __init__(
        self,
        graph: Graph,
        weights: Mapping[str, Array],
        states: Mapping[str, Array] | None = None,
        machine: Machine | None = None,
    ) -> None:
        self.graph = graph
        self._usage = Usage() if machine is None else machine.usage
        self._usage.know(graph)
        blocks = self._blocks()
        layout = lay_out(blocks)
        self.arena_bytes = layout.nbytes
        arena = np.empty(layout.nbytes, np.uint8)

        def place(name: str, shape: tuple[int, ...], dtype: str) -> Array:
            start = layout.offsets[name]
            nbytes = math.prod(shape) * ITEM_SIZE[dtype]
            return arena[start : start + nbytes].view(dtype).reshape(shape)

        arrays: dict[str, Array] = {}
        for tensor in graph.tensors:
            if tensor.role == "weight":
                arrays[tensor.name] = weights[tensor.name]
            elif tensor.role == "state":
                arrays[tensor.name] = self._state(tensor, states or {})
            elif tensor.role == "input":
                arrays[tensor.name] = np.zeros(tensor.shape, tensor.dtype)
            else:
                arrays[tensor.name] = place(tensor.name, tensor.shape, tensor.dtype)
        self.inputs = {tensor.name: arrays[tensor.name] for tensor in graph.role("input")}
        self.outputs = {tensor.name: arrays[tensor.name] for tensor in graph.role("output")}
        self._steps = []
        for op in graph.ops:
            shape = scratch_shape(op, graph)
            bound = Bound(
                op,
                tuple(arrays[name] for name in op.inputs),
                tuple(arrays[name] for name in op.outputs),
                None if shape is None else place(_SCRATCH + op.name, shape, "float32"),
            )
            step = specified = BINDERS[op.kind](bound)
            if machine is not None and machine.cpu is not None:
                step = machine.cpu.bind(graph, bound, specified)
            if step is specified:
                step = fast_step(bound, specified)
            if machine is not None and machine.accelerator is not None:
                step = machine.accelerator.bind(graph, bound, step)
            self._steps.append(step)
        cpu = None if machine is None else machine.cpu
        # What runs when nobody looks at single ops.
        self._joined = self._steps if cpu is None else cpu.join(self._steps)
        self._arrays = arrays

    def _blocks(self) -> dict[str, Block]:
        blocks = {
            name: Block(self.graph[name].nbytes, *span)
            for name, span in self.graph.lifetimes.items()
        }
        for index, op in enumerate(self.graph.ops):
            shape = scratch_shape(op, self.graph)
            if shape is not None:
                blocks[_SCRATCH + op.name] = Block(4 * math.prod(shape), index, index)
        return blocks

    @staticmethod
    def _state(tensor: Tensor, states: Mapping[str, Array]) -> Array:
        array = states[tensor.name]
        if array.shape != tensor.shape:
            raise ValueError(f"state {tensor.name} is {array.shape}, not {tensor.shape}")
        return array

    def run(self, observe: Observer | None = None) -> None:
        """Run all ops. ``observe(op name, first output)`` is called after each if given."""
        began = perf_counter()
        if observe is None:
            for step in self._joined:
                step()
        else:
            for op, step in zip(self.graph.ops, self._steps, strict=True):
                step()
                observe(op.name, self._arrays[op.outputs[0]])
        self._usage.ran(self.graph.name, perf_counter() - began)

    def __call__(self, observe: Observer | None = None, **inputs: Any) -> None:
        """Write the inputs, then run."""
        for name, value in inputs.items():
            self.inputs[name][...] = value
        self.run(observe)
