"""The graph is data: frozen ops and tensors that can be printed, checked and planned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

Role = Literal["weight", "input", "output", "state", "activation", "event", "inner"]
Attr = int | float | bool | str | tuple[int, ...]

ITEM_SIZE: Mapping[str, int] = {"float32": 4, "int64": 8, "int8": 1, "int16": 2, "int32": 4}


@dataclass(frozen=True)
class Tensor:
    """A named array. ``state`` is memory that outlives a run: the KV cache. An ``event`` is one
    word: whether something happened in an op that results tell of.

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
