"""What all builders of graphs share: collecting tensors and ops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from whisper_npu.model.graph import Attr, Graph, Op, Role, Tensor
from whisper_npu.model.kinds import KINDS, Shape
from whisper_npu.model.validation import validate


class CacheRoom(NamedTuple):
    """What the decoder's caches have room for: windows, and sequences of each of them."""

    slots: int
    members: int


class GraphBuilder:
    """Collects tensors and ops; output shapes come from the op's kind.

    ``weights`` are the shapes and dtypes of weights by name, ``dtype`` is that of whatever is
    declared without one.
    """

    def __init__(self, weights: Mapping[str, tuple[Shape, str]], dtype: str) -> None:
        self.weights, self._dtype = weights, dtype
        self.tensors: dict[str, Tensor] = {}
        self._ops: list[Op] = []

    def declare(self, name: str, shape: Shape, role: Role, dtype: str | None = None) -> str:
        """Add a tensor; its name."""
        self.tensors[name] = Tensor(name, shape, dtype or self._dtype, role)
        return name

    def weight(self, name: str) -> str:
        """Declare a weight; its name."""
        shape, dtype = self.weights[name]
        return self.declare(name, shape, "weight", dtype)

    def windows(self, batch: int) -> tuple[str, str]:
        """Declare where each window of a batch is: the position of its first new token, and its
        slot in the caches."""
        names = "position", "slot"
        for name in names:
            self.declare(name, (batch,), "input", "int64")
        return names

    def op(
        self,
        kind: str,
        inputs: Sequence[str],
        output: str,
        role: Role = "activation",
        dtype: str | None = None,
        extra: Sequence[str] = (),
        **attrs: Attr,
    ) -> str:
        """Add an op that is named after its first output; that name.

        ``extra`` names further outputs. Those of them that are not declared are of role output;
        ``dtype`` is that of all outputs that are not declared.
        """
        op = Op(output, kind, tuple(inputs), (output, *extra), tuple(sorted(attrs.items())))
        shapes = KINDS[kind].shapes(op, [self.tensors[name].shape for name in inputs])
        for name, shape in zip(op.outputs, shapes, strict=True):
            if name not in self.tensors:
                self.declare(name, shape, "output" if name in extra else role, dtype)
        self._ops.append(op)
        return output

    def build(self, name: str) -> Graph:
        """The graph of what was collected. Raises GraphError."""
        graph = Graph(name, tuple(self.tensors.values()), tuple(self._ops))
        validate(graph)
        return graph
