"""The interface of a backend: offers and refusals for regions of a graph, forms of tensors, steps.

A region is one op, or several that follow each other, of which only the last writes what others
read. A backend is asked for each op whether it runs the region that begins there. Its offer says
with which kernel, at what cost and with which forms of the tensors; ``bind`` makes the step.
``whisper_npu.runtime.placement`` chooses among the offers of all backends.

Offers and what they are made of are named tuples: a model has hundreds, and they are made in a
third of the time that frozen dataclasses take.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from whisper_npu.errors import KernelError
from whisper_npu.model.graph import Graph, Op, Tensor

Array = NDArray[Any]
Shape = tuple[int, ...]
# Computes what it was bound to, in place.
Step = Callable[[], Any]

# Ops that NumPy computes are counted under this name, whichever function does it.
NUMPY = "numpy"


class Packing(Protocol):
    """An arrangement of a matrix in tiles, in memory of the backend that wants it.

    Equal packings are one arrangement in the same memory, so that they can be keys.
    """

    @property
    def name(self) -> str:
        """For people, and the order of the tensor in a plan's graph."""
        ...

    @property
    def rows(self) -> int:
        """Rows are filled in groups of this many; the last may be smaller."""
        ...

    def shape(self, shape: Shape) -> Shape:
        """The shape of the packed matrix, padding included."""
        ...

    def take(self, weight: str, shape: Shape) -> Array:
        """Memory for a weight of this shape, of the packed shape. Raises KernelError."""
        ...

    def fill(self, packed: Array, values: Array, first: int) -> None:
        """Put rows of the matrix, from row ``first`` on, to their places."""
        ...


class Form(NamedTuple):
    """How a tensor lies in memory: its dtype, and the order of its elements.

    ``order`` is "C" (rows in one piece) or "F" (columns in one piece); a packed tensor has the name
    of its packing there.
    """

    dtype: str
    order: str = "C"
    packing: Packing | None = None

    @classmethod
    def packed(cls, dtype: str, packing: Packing) -> Form:
        """The form that a packing gives."""
        return cls(dtype, packing.name, packing)

    def __str__(self) -> str:
        names = {"C": "by rows", "F": "by columns"}
        return f"{self.dtype} {names.get(self.order, self.order)}"


class Bound(NamedTuple):
    """A region with the arrays of the tensors that it reads and writes, by name.

    ``scratch`` is what the offer asked for. ``inner`` are the tensors that only the region itself
    writes and reads, which have no array.
    """

    ops: tuple[Op, ...]
    arrays: Mapping[str, Array]
    scratch: Array | None = None
    inner: tuple[Tensor, ...] = ()

    @classmethod
    def of(
        cls,
        op: Op,
        inputs: Sequence[Array],
        outputs: Sequence[Array],
        scratch: Array | None = None,
    ) -> Bound:
        """A single op with its arrays in order."""
        names = (*op.inputs, *op.outputs)
        return cls((op,), dict(zip(names, (*inputs, *outputs), strict=True)), scratch)

    @property
    def op(self) -> Op:
        """The op of a region of one."""
        (op,) = self.ops
        return op

    @property
    def inputs(self) -> tuple[Array, ...]:
        """The arrays that are read, in the order of the ops' inputs, without the inner ones."""
        return self._arrays(name for op in self.ops for name in op.inputs)

    @property
    def outputs(self) -> tuple[Array, ...]:
        """The arrays that are written, in the order of the ops' outputs."""
        return self._arrays(name for op in self.ops for name in op.outputs)

    def _arrays(self, names: Any) -> tuple[Array, ...]:
        return tuple(self.arrays[name] for name in names if name in self.arrays)


class Offer(NamedTuple):
    """What a backend would do with a region.

    ``kernel`` is the name that results count the ops under, ``function`` names what is called (see
    ``function_of``). ``forms`` are the forms of tensors that it takes, best first; all others it
    wants as the graph has them, by rows. ``scratch`` is the shape of float32 memory for the step
    alone. ``in_place`` says that the last op's output may take the place of the
    first op's first input. ``seconds`` is
    None where no measurement and no model says what the region takes. Bytes are moved for each run,
    ``resident_bytes`` once.
    """

    backend: str
    kernel: str
    function: str
    ops: tuple[Op, ...]
    bind: Callable[[Bound], Step]
    forms: Mapping[str, tuple[Form, ...]] = MappingProxyType({})
    scratch: Shape | None = None
    in_place: bool = False
    seconds: float | None = None
    note: str = ""
    launches: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    resident_bytes: int = 0
    weight: str | None = None


class Refusal(NamedTuple):
    """Why a backend does not run the op that it was asked for."""

    backend: str
    reason: str


class Backend(ABC):
    """Runs ops of graphs. ``name`` is for people and for ``Offer.backend``.

    ``predicts`` says whether its offers have times.
    """

    name: str
    predicts = False

    @abstractmethod
    def offer(self, graph: Graph, index: int) -> Offer | Refusal:
        """For the region that begins with the op of this index; the best, if there are several."""

    def failed(self, graph: Graph, offer: Offer, error: KernelError) -> None:
        """Take note that an offer of this backend could not be bound: others run the region."""
        raise error

    def join(self, steps: Sequence[Step]) -> list[Step]:
        """The same steps in the same order, with some of this backend's as one call."""
        return list(steps)

    def close(self) -> None:
        """Give back what the backend has of a device. What is bound computes on NumPy then."""
        return


def inner_tensors(graph: Graph, ops: Sequence[Op]) -> tuple[Tensor, ...]:
    """The activations that only these ops write and read."""
    written = {name for op in ops for name in op.outputs}
    others = {name for op in graph.ops if op not in ops for name in op.inputs}
    return tuple(
        graph[name]
        for op in ops
        for name in op.outputs
        if graph[name].role == "activation" and name in written - others
    )


def chain(graph: Graph, index: int, *kinds: str) -> tuple[Op, ...] | None:
    """The ops from ``index`` on if they are of these kinds and each reads the first output of the
    one before it, which nothing else reads: what one kernel can do at a time."""
    ops = graph.ops[index : index + len(kinds)]
    if tuple(op.kind for op in ops) != kinds:
        return None
    inner = {tensor.name for tensor in inner_tensors(graph, ops)}
    linked = all(
        second.inputs[0] == first.outputs[0] and set(first.outputs) <= inner
        for first, second in pairwise(ops)
    )
    return ops if linked else None


def function_of(step: Any) -> str:
    """The name of the function that a step calls, read off the step itself.

    A step that calls different ones says in ``function`` which it called last; of a partial, and of
    whatever else has a ``func``, it is that of the ``func``.
    """
    while not hasattr(step, "function"):
        if not hasattr(step, "func"):
            return name_of(step if hasattr(step, "__qualname__") else type(step))
        step = step.func
    return str(step.function)


def name_of(function: Any) -> str:
    """The name of a function or a class with its module, without that of this package."""
    return f"{function.__module__}.{function.__qualname__}".removeprefix("whisper_npu.")
