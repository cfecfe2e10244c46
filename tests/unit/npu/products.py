"""Graphs of one quantised product, and their arrays."""

from __future__ import annotations

import numpy as np

from whisper_npu.model.graph import Graph, Op, Tensor
from whisper_npu.ops.fixed import LARGEST
from whisper_npu.ops.product_int8 import product_int8
from whisper_npu.ops.rows import Integers, limit
from whisper_npu.runtime.backend import Array, Bound

# What no op gives: below the least that there is of saturated results.
UNWRITTEN = -LARGEST - 1


def rows_of(m: int, k: int, bits: int, seed: int = 0) -> Integers:
    """Activations as they come, of 8 or 16 bits, the largest there are among them."""
    largest = limit(bits, k)
    rng = np.random.default_rng(seed)
    x = rng.integers(-largest, largest + 1, (m, k)).astype(f"int{bits}")
    x.reshape(-1)[rng.integers(0, x.size, 2)] = largest, -largest
    return x


def product_graph(
    m: int,
    k: int,
    n: int,
    weight: str = "w",
    bias: bool = True,
    name: str = "phase",
    dtype: str = "int8",
) -> Graph:
    """[m, k] times [n, k], as one op of the name "product", of rows of a dtype."""
    tensors = [
        Tensor("x", (m, k), dtype, "input"),
        Tensor("x.scale", (m,), "float32", "input"),
        Tensor(weight, (n, k), "int8", "weight"),
        Tensor(f"{weight}.scale", (n,), "float32", "weight"),
        Tensor("bias", (n,), "int32", "weight"),
        Tensor("y", (m, n), "int32", "output"),
    ]
    if not bias:
        del tensors[4]
    *inputs, _ = (tensor.name for tensor in tensors)
    return Graph(name, tuple(tensors), (Op("product", "product_int8", tuple(inputs), ("y",)),))


def bound_product(graph: Graph, x: Integers, w: Array, seed: int = 0) -> Bound:
    """The op with arrays: ``w`` as it lies, scales and bias of many bits."""
    rng = np.random.default_rng(seed)
    (op,) = graph.ops
    m, n = graph[op.outputs[0]].shape
    rest = {
        "x.scale": np.ldexp(rng.integers(128, 256, m), -24),
        f"{op.inputs[2]}.scale": np.ldexp(rng.integers(2**13, 2**14, n), -14),
    }
    arrays: dict[str, Array] = {name: scale.astype(np.float32) for name, scale in rest.items()}
    arrays["bias"] = rng.integers(-(2**15), 2**15, n).astype(np.int32)
    arrays |= {"x": x, op.inputs[2]: w, "y": np.full((m, n), UNWRITTEN, np.int32)}
    return Bound(graph.ops, arrays)


def is_right(bound: Bound, w: Array) -> bool:
    """Whether the output is that of the specification with this weight; it is wiped."""
    x, x_scale, _, w_scale, *rest = bound.inputs
    expected = product_int8(x, x_scale, w.astype(np.float32), w_scale, *rest)
    right = np.array_equal(bound.outputs[0], expected)
    bound.outputs[0][:] = UNWRITTEN
    return right
