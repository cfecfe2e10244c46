"""Graphs of one quantised product, and their arrays."""

from __future__ import annotations

import numpy as np

from whisper_npu.model.graph import Graph, Op, Tensor
from whisper_npu.ops.arrays import I8
from whisper_npu.runtime.backend import Array, Bound


def product_graph(
    m: int, k: int, n: int, weight: str = "w", bias: bool = True, name: str = "phase"
) -> Graph:
    """[m, k] times [n, k], as one op of the name "product"."""
    tensors = [
        Tensor("x", (m, k), "int8", "input"),
        Tensor("x.scale", (m,), "float32", "input"),
        Tensor(weight, (n, k), "int8", "weight"),
        Tensor(f"{weight}.scale", (n,), "float32", "weight"),
        Tensor("bias", (n,), "float32", "weight"),
        Tensor("y", (m, n), "float32", "output"),
    ]
    if not bias:
        del tensors[4]
    *inputs, _ = (tensor.name for tensor in tensors)
    return Graph(name, tuple(tensors), (Op("product", "linear_int8", tuple(inputs), ("y",)),))


def bound_product(graph: Graph, x: I8, w: Array, seed: int = 0) -> Bound:
    """The op with arrays: ``w`` as it lies, scales and bias of many bits."""
    rng = np.random.default_rng(seed)
    (op,) = graph.ops
    arrays: dict[str, Array] = {}
    for name in (*op.inputs, *op.outputs):
        shape = graph[name].shape
        arrays[name] = rng.random(shape, np.float32) + np.float32(0.1)
    arrays[op.inputs[0]], arrays[op.inputs[2]] = x, w
    return Bound(graph.ops, arrays)
