"""Whether a graph holds together: names, order, shapes, and that every op is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from whisper_npu.model.graph import ITEM_SIZE, Graph
from whisper_npu.model.kinds import KINDS


class GraphError(ValueError):
    """A graph that does not hold together; the message lists every problem found."""


def validate(graph: Graph) -> None:
    """Check the whole graph. Raises GraphError that lists all problems.

    Found are: duplicated names, references to tensors that do not exist, tensors read before
    anything wrote them, outputs written twice or into weights and inputs, shapes and dtypes
    that the op's kind does not give, and ops and tensors from which no output or state is
    reached.
    """
    problems = [
        *_duplicates(graph),
        *_dangling(graph),
    ]
    if not problems:
        problems = [*_misshaped(graph), *_unreachable(graph)]
    if problems:
        raise GraphError(f"graph {graph.name}: " + "; ".join(problems))


def _duplicates(graph: Graph) -> Iterable[str]:
    for what, names in (
        ("tensor", [tensor.name for tensor in graph.tensors]),
        ("op", [op.name for op in graph.ops]),
    ):
        for name, count in Counter(names).items():
            if count > 1:
                yield f"{what} {name} is defined {count} times"


def _dangling(graph: Graph) -> Iterable[str]:
    written = {t.name for t in graph.tensors if t.role in ("weight", "input", "state")}
    produced: dict[str, str] = {}
    for op in graph.ops:
        for name in op.inputs:
            if name not in graph:
                yield f"op {op.name} reads {name}, which is not a tensor of the graph"
            elif name not in written:
                yield f"op {op.name} reads {name} before anything has written it"
        for name in op.outputs:
            if name not in graph:
                yield f"op {op.name} writes {name}, which is not a tensor of the graph"
            elif graph[name].role in ("weight", "input"):
                yield f"op {op.name} writes {name}, which is a {graph[name].role}"
            elif name in produced:
                yield f"op {op.name} writes {name}, which op {produced[name]} has written"
            produced[name] = op.name
            written.add(name)
    for tensor in graph.tensors:
        if tensor.role in ("output", "activation", "event") and tensor.name not in produced:
            yield f"{tensor.role} {tensor.name} is written by no op"


def _misshaped(graph: Graph) -> Iterable[str]:
    for op in graph.ops:
        kind = KINDS.get(op.kind)
        if kind is None:
            yield f"op {op.name} is of the unknown kind {op.kind}"
            continue
        try:
            expected = kind.shapes(op, tuple(graph[name].shape for name in op.inputs))
        except (ValueError, KeyError, IndexError, TypeError) as error:
            yield f"op {op.name} ({op.kind}) does not take its inputs: {error}"
            continue
        if len(expected) != len(op.outputs):
            yield f"op {op.name} ({op.kind}) has {len(expected)} outputs"
        for name, shape in zip(op.outputs, expected, strict=False):
            if graph[name].shape != shape:
                yield f"{name} is {list(graph[name].shape)}, but {op.name} gives {list(shape)}"
    for tensor in graph.tensors:
        if tensor.dtype not in ITEM_SIZE or any(size < 1 for size in tensor.shape):
            yield f"{tensor.name} cannot be {list(tensor.shape)} of {tensor.dtype}"


def _unreachable(graph: Graph) -> Iterable[str]:
    needed = {tensor.name for tensor in graph.role("output")}
    used: set[str] = set()
    for op in reversed(graph.ops):
        writes_state = any(graph[name].role == "state" for name in op.outputs)
        if writes_state or needed.intersection(op.outputs):
            needed.update(op.inputs)
            used.update(op.inputs, op.outputs)
        else:
            yield f"op {op.name} reaches no output"
    for tensor in graph.tensors:
        if tensor.name not in used:
            yield f"{tensor.role} {tensor.name} is not used"
