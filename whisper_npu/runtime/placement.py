"""The one place where it is decided what runs an op, and in which form every tensor lies.

``choose`` asks all backends for every op of a graph and takes one offer for each region. ``settle``
looks at the graphs of a model together and finds the forms of weights and states in which most of
their readers can have them. ``place`` gives the two as data: it is printed by ``whisper-npu plan``,
carried out by ``runtime.plan.Plan``, and counted in a result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Literal, NamedTuple

from whisper_npu.model.graph import Graph, Op, Tensor
from whisper_npu.runtime.backend import (
    Backend,
    Form,
    Offer,
    Refusal,
    inner_tensors,
)

# "auto" passes over a kernel where NumPy is predicted to be faster; "npu", the name on the command
# line, goes by the rank of the backends alone, also where there is no NPU.
Policy = Literal["auto", "npu"]


class Region(NamedTuple):
    """Ops that follow each other and run as one, and the offer that was taken for them.

    ``seconds`` is predicted: of the offer where it is known, else of NumPy; None if neither is.
    """

    phase: str
    offer: Offer
    reason: str
    refusals: tuple[Refusal, ...]
    seconds: float | None

    @property
    def ops(self) -> tuple[Op, ...]:
        """The ops, as the model's graph has them."""
        return self.offer.ops


class Forms(NamedTuple):
    """The forms that weights are held in, and the form of each state, by name.

    What is not named is held as the graphs have it, by rows.
    """

    weights: Mapping[str, tuple[Form, ...]] = MappingProxyType({})
    states: Mapping[str, Form] = MappingProxyType({})


class PlacedGraph(NamedTuple):
    """A graph with its placement.

    ``graph`` has the tensors as they lie in memory: with dtype, shape and order of their form. A
    weight in two forms is two tensors. ``weights`` gives for each of these tensors the weight and
    its form. ``regions`` are in order.
    """

    graph: Graph
    regions: tuple[Region, ...]
    weights: Mapping[str, tuple[str, Form]]


def choose(
    graph: Graph,
    backends: Sequence[Backend],
    policy: Policy = "npu",
    forms: Forms | None = None,
) -> tuple[Region, ...]:
    """One region after the other, each with the offer that is taken for it.

    ``backends`` are in order of rank. The first that makes an offer has the region, unless the
    policy is "auto" and others of lower rank are known to be faster; where the time of one of the
    two is not known, rank decides. An offer that wants another form of a state than it has does not
    count. With "auto" neither does one that wants a weight in a form that it is not held in, if
    there are others. Raises ValueError for an op that no backend runs.
    """
    chooser = _Chooser(graph, policy, forms or Forms())
    return tuple(chooser.regions(backends, 0, len(graph.ops)))


def replacement(
    region: Region, graph: Graph, backends: Sequence[Backend], forms: Forms
) -> tuple[Region, ...]:
    """Regions for the ops of one that has failed, by backends of lower rank, and by rank alone."""
    names = [backend.name for backend in backends]
    lower = backends[names.index(region.offer.backend) + 1 :]
    start = graph.ops.index(region.ops[0])
    chooser = _Chooser(graph, "npu", forms)
    return tuple(chooser.regions(lower, start, start + len(region.ops)))


class _Chooser:
    """Chooses among the offers for one graph."""

    def __init__(self, graph: Graph, policy: Policy, forms: Forms) -> None:
        self._graph, self._policy, self._forms = graph, policy, forms

    def regions(self, backends: Sequence[Backend], start: int, stop: int) -> Iterator[Region]:
        """The regions from one op up to another. Raises ValueError."""
        index = start
        while index < stop:
            region = None
            if self._policy == "auto" and self._forms.weights:
                region = self._take(backends, index, held=True)
            region = region or self._take(backends, index)
            if region is None:
                op = self._graph.ops[index]
                raise ValueError(f"no backend runs op {op.name} ({op.kind}) of {self._graph.name}")
            yield region
            index += len(region.ops)

    def _take(self, backends: Sequence[Backend], index: int, held: bool = False) -> Region | None:
        """The region that begins with an op; None if nobody runs it, or, with ``held``, nobody with
        the weights as they are held."""
        refusals: list[Refusal] = []
        beaten: Offer | None = None
        for rank, backend in enumerate(backends):
            answer = _ask(backend, self._graph, index, self._forms, held)
            if isinstance(answer, Refusal):
                refusals.append(answer)
                continue
            # Others are asked only where a time may come of it.
            others = None
            if any(each.predicts for each in backends[rank + 1 :]):
                others = self._seconds(backends[rank + 1 :], index, len(answer.ops), held)
            if self._policy == "auto" and _less(others, answer.seconds):
                beaten = beaten or answer
                refusals.append(Refusal(backend.name, _slower(answer, others)))
                continue
            reason = _reason(answer, others, beaten, refusals)
            seconds = others if answer.seconds is None else answer.seconds
            return Region(self._graph.name, answer, reason, tuple(refusals), seconds)
        return None

    def _seconds(
        self, backends: Sequence[Backend], start: int, count: int, held: bool
    ) -> float | None:
        """What ``count`` ops take on these backends; None if that is not known of all of them, or
        if their regions reach beyond."""
        total, index = 0.0, start
        while index < start + count:
            region = self._take(backends, index, held)
            if region is None or region.seconds is None:
                return None
            total += region.seconds
            index += len(region.ops)
        return total if index == start + count else None


def _ask(backend: Backend, graph: Graph, index: int, forms: Forms, held: bool) -> Offer | Refusal:
    answer = backend.offer(graph, index)
    if isinstance(answer, Refusal):
        return answer
    _check_region(graph, index, answer)
    state = misfit(answer, graph, forms.states)
    if state is not None:
        return Refusal(backend.name, f"{state} is {forms.states[state]}")
    for name in _names(answer.ops) if held else ():
        there = forms.weights.get(name, ())
        if there and not set(there).intersection(_accepted(answer, graph[name])):
            return Refusal(backend.name, f"{name} is held as {there[0]}")
    return answer


def misfit(offer: Offer, graph: Graph, states: Mapping[str, Form]) -> str | None:
    """The first state that has another form than an offer takes, None if there is none."""
    for op in offer.ops:
        for name in (*op.inputs, *op.outputs):
            if name in states and states[name] not in _accepted(offer, graph[name]):
                return name
    return None


def _check_region(graph: Graph, index: int, offer: Offer) -> None:
    """Raises ValueError for other ops than those that begin at ``index``, and if others read what
    lies within the region."""
    if not offer.ops or graph.ops[index : index + len(offer.ops)] != offer.ops:
        raise ValueError(f"{offer.backend} offers ops that do not begin with {graph.ops[index]}")
    if len(offer.ops) == 1:
        return
    inner = {tensor.name for tensor in inner_tensors(graph, offer.ops)}
    for op in offer.ops[:-1]:
        outside = [name for name in op.outputs if name not in inner]
        if outside:
            raise ValueError(f"{offer.backend} offers a region within which {outside[0]} is lost")


def _less(a: float | None, b: float | None) -> bool:
    return a is not None and b is not None and a < b


def _slower(offer: Offer, others: float | None) -> str:
    assert offer.seconds is not None
    assert others is not None
    return f"slower: {offer.seconds * 1e3:.2f} ms, others {others * 1e3:.2f} ms"


def _reason(
    offer: Offer, others: float | None, beaten: Offer | None, refusals: Sequence[Refusal]
) -> str:
    if offer.note:
        if offer.seconds is not None and others is not None:
            return f"{offer.note}; {others * 1e3:.2f} ms on NumPy"
        return f"{offer.note}; by rank" + ("" if others is None else "; ms of NumPy")
    if beaten is not None and beaten.seconds is not None and offer.seconds is not None:
        times = f"{offer.seconds * 1e3:.2f} ms, {beaten.seconds * 1e3:.2f} ms"
        return f"faster: {times} on {beaten.kernel}"
    return refusals[0].reason if refusals else "by rank"


def settle(placed: Iterable[tuple[Graph, Sequence[Region]]]) -> Forms:
    """The forms of weights and states for all regions of all graphs of a model.

    A weight is held in the form that most of its readers take, and in another only for those that
    do not take that one. A state is one array: it has a form that all take, or that of the graphs.
    """
    readers: dict[str, list[tuple[Form, ...]]] = {}
    tensors: dict[str, Tensor] = {}
    for graph, regions in placed:
        for region in regions:
            for name in _names(region.ops):
                tensor = graph[name]
                if tensor.role in ("weight", "state"):
                    tensors[name] = tensor
                    readers.setdefault(name, []).append(_accepted(region.offer, tensor))
    weights, states = {}, {}
    for name, accepted in readers.items():
        if tensors[name].role == "weight":
            weights[name] = tuple(_cover(accepted))
        else:
            common = [form for form in accepted[0] if all(form in forms for forms in accepted)]
            states[name] = common[0] if common else Form(tensors[name].dtype)
    return Forms(weights, states)


def _names(ops: Iterable[Op]) -> dict[str, None]:
    return dict.fromkeys(name for op in ops for name in (*op.inputs, *op.outputs))


def _accepted(offer: Offer, tensor: Tensor) -> tuple[Form, ...]:
    return offer.forms.get(tensor.name, (Form(tensor.dtype),))


def _cover(accepted: Sequence[tuple[Form, ...]]) -> Iterator[Form]:
    left = list(accepted)
    while left:
        candidates = dict.fromkeys(form for forms in left for form in forms)
        best = max(candidates, key=lambda form: sum(form in forms for forms in left))
        yield best
        left = [forms for forms in left if best not in forms]


def place(graph: Graph, regions: Sequence[Region], forms: Forms) -> PlacedGraph:
    """The graph as it lies in memory for these regions."""
    tensors = {tensor.name: tensor for tensor in graph.tensors}
    lowered: dict[str, Tensor] = {}
    weights: dict[str, tuple[str, Form]] = {}
    ops: list[Op] = []
    for region in regions:
        renamed: dict[str, str] = {}
        several = len(region.ops) > 1
        inner = {t.name for t in inner_tensors(graph, region.ops)} if several else set()
        for name in _names(region.ops):
            tensor = tensors[name]
            form = form_of(region.offer, tensor, forms)
            known = lowered.get(name)
            if tensor.role == "weight" and known is not None and weights[name] != (name, form):
                renamed[name] = f"{name} ({form})"
            shown = renamed.get(name, name)
            if name in inner:
                tensor = replace(tensor, role="inner")
            lowered.setdefault(shown, _in_form(tensor, shown, form))
            if tensor.role == "weight":
                weights[shown] = name, form
        ops += [
            replace(op, inputs=tuple(renamed.get(name, name) for name in op.inputs))
            for op in region.ops
        ]
    return PlacedGraph(
        Graph(graph.name, tuple(lowered.values()), tuple(ops)), tuple(regions), weights
    )


def form_of(offer: Offer, tensor: Tensor, forms: Forms) -> Form:
    """The form in which an offer gets a tensor: one that is held, if it takes one.

    Where what was settled is not to be had (a backend has no memory for it after all), it is the
    form of the graph, which takes the least memory, or else the best that the offer takes.
    """
    if tensor.role == "state" and tensor.name in forms.states:
        return forms.states[tensor.name]
    accepted = _accepted(offer, tensor)
    held = forms.weights.get(tensor.name, ())
    own = Form(tensor.dtype)
    other = own if own in accepted else accepted[0]
    return next((form for form in accepted if form in held), other)


def _in_form(tensor: Tensor, name: str, form: Form) -> Tensor:
    shape = tensor.shape if form.packing is None else form.packing.shape(tensor.shape)
    return replace(tensor, name=name, shape=shape, dtype=form.dtype, order=form.order)


def form_bytes(shape: Sequence[int], form: Form) -> int:
    """Bytes of a tensor of this shape in a form."""
    packed = tuple(shape) if form.packing is None else form.packing.shape(tuple(shape))
    return Tensor("", packed, form.dtype, "weight").nbytes


class PlacedOp(NamedTuple):
    """An op of a placed graph, as ``whisper-npu plan`` shows it.

    ``backend`` is the name that it is counted under, ``function`` what is called. Of a region of
    several ops the first has the launches, bytes and seconds. ``weight`` names what is resident.
    """

    phase: str
    op: str
    kind: str
    backend: str
    reason: str
    launches: int
    bytes_in: int
    bytes_out: int
    resident_bytes: int
    seconds: float
    weight: str | None
    function: str
    region: tuple[str, ...]
    refusals: Mapping[str, str]


def placed_ops(regions: Iterable[Region]) -> Iterator[PlacedOp]:
    """The ops of regions one by one."""
    for region in regions:
        offer = region.offer
        names = tuple(op.name for op in region.ops)
        for position, op in enumerate(region.ops):
            own = position == 0
            yield PlacedOp(
                region.phase, op.name, op.kind, offer.kernel, region.reason,
                offer.launches if own else 0, offer.bytes_in if own else 0,
                offer.bytes_out if own else 0, offer.resident_bytes if own else 0,
                (region.seconds or 0.0) if own else 0.0, offer.weight if own else None,
                offer.function, names, {r.backend: r.reason for r in region.refusals},
            )  # fmt: skip
