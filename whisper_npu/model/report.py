"""A graph printed: as a table, as JSON, as Graphviz dot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from whisper_npu.model.graph import Graph, Op
from whisper_npu.model.kinds import KINDS

GRAPH_FORMATS = ("text", "json", "dot")

_COLUMNS = "{:<28} {:<17} {:<22} {:<8} {:>14} {:>14}"
_ROLE_STYLES = {
    "weight": "shape=box, style=filled, fillcolor=lightgrey",
    "state": "shape=cylinder",
    "input": "shape=invhouse",
    "output": "shape=house",
    "activation": "shape=ellipse",
    "event": "shape=diamond",
}


def op_flops(graph: Graph, op: Op) -> int:
    """Floating-point operations of an op, a multiply and an add counted as two."""
    inputs = [graph[name].shape for name in op.inputs]
    outputs = [graph[name].shape for name in op.outputs]
    return KINDS[op.kind].flops(op, inputs, outputs)


def op_bytes(graph: Graph, op: Op) -> int:
    """Bytes of all inputs (weights and state too) and outputs of an op."""
    return sum(graph[name].nbytes for name in (*op.inputs, *op.outputs))


def render(graphs: list[Graph], form: str) -> str:
    """The graphs in one of ``GRAPH_FORMATS``."""
    if form == "text":
        return "\n\n".join("\n".join(_text(graph)) for graph in graphs)
    if form == "json":
        return json.dumps([_to_dict(graph) for graph in graphs], indent=2)
    return "\n".join(line for graph in graphs for line in _dot(graph))


def _shape(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _text(graph: Graph) -> Iterator[str]:
    yield f"graph {graph.name}: {len(graph.ops)} ops, {len(graph.tensors)} tensors"
    yield _COLUMNS.format("op", "kind", "output", "dtype", "FLOPs", "bytes")
    for op in graph.ops:
        out = graph[op.outputs[0]]
        yield _COLUMNS.format(
            op.name,
            op.kind,
            _shape(out.shape),
            out.dtype,
            f"{op_flops(graph, op):,}",
            f"{op_bytes(graph, op):,}",
        )
    weights = sum(tensor.nbytes for tensor in graph.role("weight"))
    state = sum(tensor.nbytes for tensor in graph.role("state"))
    flops = sum(op_flops(graph, op) for op in graph.ops)
    moved = sum(op_bytes(graph, op) for op in graph.ops)
    yield _COLUMNS.format("total", "", "", "", f"{flops:,}", f"{moved:,}")
    yield f"weights {weights:,} bytes, state (KV cache) {state:,} bytes"


def _to_dict(graph: Graph) -> dict[str, Any]:
    return {
        "name": graph.name,
        "tensors": [
            {
                "name": tensor.name,
                "shape": list(tensor.shape),
                "dtype": tensor.dtype,
                "role": tensor.role,
                "bytes": tensor.nbytes,
            }
            for tensor in graph.tensors
        ],
        "ops": [
            {
                "name": op.name,
                "kind": op.kind,
                "inputs": list(op.inputs),
                "outputs": list(op.outputs),
                "attrs": dict(op.attrs),
                "flops": op_flops(graph, op),
                "bytes": op_bytes(graph, op),
            }
            for op in graph.ops
        ],
    }


def _dot(graph: Graph) -> Iterator[str]:
    def quoted(prefix: str, name: str) -> str:
        return json.dumps(f"{graph.name}/{prefix}/{name}")

    yield f"digraph {graph.name} {{"
    yield "  rankdir=TB;"
    for tensor in graph.tensors:
        label = json.dumps(f"{tensor.name}\n{_shape(tensor.shape)} {tensor.dtype}")
        node = quoted("tensor", tensor.name)
        yield f"  {node} [label={label}, {_ROLE_STYLES[tensor.role]}];"
    for op in graph.ops:
        node = quoted("op", op.name)
        flops, moved = op_flops(graph, op), op_bytes(graph, op)
        label = json.dumps(f"{op.kind}\n{flops:,} FLOPs\n{moved:,} bytes")
        yield f"  {node} [label={label}, shape=record];"
        for name in op.inputs:
            yield f"  {quoted('tensor', name)} -> {node};"
        for name in op.outputs:
            yield f"  {node} -> {quoted('tensor', name)};"
    yield "}"
