"""The graph is data: frozen ops and tensors that can be printed, checked and planned."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

Role = Literal["weight", "input", "output", "state", "activation", "inner"]
Attr = int | float | bool | str | tuple[int, ...]

ITEM_SIZE: Mapping[str, int] = {"float32": 4, "int64": 8, "int8": 1, "int32": 4}


class GraphError(ValueError):
    """A graph that does not hold together; the message lists every problem found."""


@dataclass(frozen=True)
class Tensor:
    """A named array. ``state`` is memory that outlives a run: the KV cache.

    In the graph of a plan ``order`` says how the elements lie: "C" for rows in one piece, "F" for
    columns in one piece, or the name of a packing. There an ``inner`` tensor has no memory: one
    step computes the ops that write and read it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role
    order: str = "C"

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.size * ITEM_SIZE[self.dtype]


@dataclass(frozen=True)
class Op:
    """One operation. An op may write a ``state`` tensor that it also reads."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: tuple[tuple[str, Attr], ...] = ()

    def attr(self, name: str) -> Attr:
        """The value of an attribute. Raises KeyError."""
        return dict(self.attrs)[name]


@dataclass(frozen=True)
class Graph:
    """Ops in execution order over named tensors, all shapes static."""

    name: str
    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    _by_name: Mapping[str, Tensor] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {tensor.name: tensor for tensor in self.tensors})

    def __getitem__(self, name: str) -> Tensor:
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def role(self, role: Role) -> tuple[Tensor, ...]:
        """The tensors of one role, in order."""
        return tuple(tensor for tensor in self.tensors if tensor.role == role)

    @cached_property
    def lifetimes(self) -> Mapping[str, tuple[int, int]]:
        """First and last op index at which each activation's or output's memory is needed.

        An output is needed to the end.
        """
        spans: dict[str, tuple[int, int]] = {}
        for index, op in enumerate(self.ops):
            for name in (*op.inputs, *op.outputs):
                if self[name].role in ("activation", "output"):
                    first = spans.get(name, (index, index))[0]
                    spans[name] = (first, index)
        for tensor in self.role("output"):
            if tensor.name in spans:
                spans[tensor.name] = (spans[tensor.name][0], len(self.ops))
        return spans

    def validate(self) -> None:
        """Check the whole graph. Raises GraphError that lists all problems.

        Found are: duplicated names, references to tensors that do not exist, tensors read before
        anything wrote them, outputs written twice or into weights and inputs, shapes and dtypes
        that the op's kind does not give, and ops and tensors from which no output or state is
        reached.
        """
        problems = [
            *self._duplicates(),
            *self._dangling(),
        ]
        if not problems:
            problems = [*self._misshaped(), *self._unreachable()]
        if problems:
            raise GraphError(f"graph {self.name}: " + "; ".join(problems))

    def _duplicates(self) -> Iterable[str]:
        for what, names in (
            ("tensor", [tensor.name for tensor in self.tensors]),
            ("op", [op.name for op in self.ops]),
        ):
            for name, count in Counter(names).items():
                if count > 1:
                    yield f"{what} {name} is defined {count} times"

    def _dangling(self) -> Iterable[str]:
        written = {t.name for t in self.tensors if t.role in ("weight", "input", "state")}
        produced: dict[str, str] = {}
        for op in self.ops:
            for name in op.inputs:
                if name not in self:
                    yield f"op {op.name} reads {name}, which is not a tensor of the graph"
                elif name not in written:
                    yield f"op {op.name} reads {name} before anything has written it"
            for name in op.outputs:
                if name not in self:
                    yield f"op {op.name} writes {name}, which is not a tensor of the graph"
                elif self[name].role in ("weight", "input"):
                    yield f"op {op.name} writes {name}, which is a {self[name].role}"
                elif name in produced:
                    yield f"op {op.name} writes {name}, which op {produced[name]} has written"
                produced[name] = op.name
                written.add(name)
        for tensor in self.tensors:
            if tensor.role in ("output", "activation") and tensor.name not in produced:
                yield f"{tensor.role} {tensor.name} is written by no op"

    def _misshaped(self) -> Iterable[str]:
        # Imported here: the kinds describe themselves in terms of this module's types.
        from whisper_npu.model.kinds import KINDS

        for op in self.ops:
            kind = KINDS.get(op.kind)
            if kind is None:
                yield f"op {op.name} is of the unknown kind {op.kind}"
                continue
            try:
                expected = kind.shapes(op, tuple(self[name].shape for name in op.inputs))
            except (ValueError, KeyError, IndexError, TypeError) as error:
                yield f"op {op.name} ({op.kind}) does not take its inputs: {error}"
                continue
            if len(expected) != len(op.outputs):
                yield f"op {op.name} ({op.kind}) has {len(expected)} outputs"
            for name, shape in zip(op.outputs, expected, strict=False):
                if self[name].shape != shape:
                    yield f"{name} is {list(self[name].shape)}, but {op.name} gives {list(shape)}"
        for tensor in self.tensors:
            if tensor.dtype not in ITEM_SIZE or any(size < 1 for size in tensor.shape):
                yield f"{tensor.name} cannot be {list(tensor.shape)} of {tensor.dtype}"

    def _unreachable(self) -> Iterable[str]:
        needed = {tensor.name for tensor in self.role("output")}
        used: set[str] = set()
        for op in reversed(self.ops):
            writes_state = any(self[name].role == "state" for name in op.outputs)
            if writes_state or needed.intersection(op.outputs):
                needed.update(op.inputs)
                used.update(op.inputs, op.outputs)
            else:
                yield f"op {op.name} reaches no output"
        for tensor in self.tensors:
            if tensor.name not in used:
                yield f"{tensor.role} {tensor.name} is not used"
