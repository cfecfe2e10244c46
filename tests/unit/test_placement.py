"""What runs where, and in which form tensors lie: chosen once, printed, and carried out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pytest

from tests.unit.conftest import SMALL
from tests.unit.toy_backend import Toy, run_gelu, run_linear_gelu
from whisper_npu.backends.numpy import numpy_backends
from whisper_npu.backends.numpy.host_rates import HostRates
from whisper_npu.backends.numpy.specification import Specification, specify
from whisper_npu.backends.opening import numpy_model
from whisper_npu.errors import KernelError
from whisper_npu.model.builders import PHASES, build_phase
from whisper_npu.model.checkpoint import Checkpoint
from whisper_npu.model.graph import Graph, Op, Tensor
from whisper_npu.model.precision import PRECISIONS, Precision
from whisper_npu.model.validation import validate
from whisper_npu.runtime.backend import (
    Backend,
    Bound,
    Form,
    Offer,
    Refusal,
    Step,
    chain,
    function_of,
    inner_tensors,
    name_of,
)
from whisper_npu.runtime.machine import Machine
from whisper_npu.runtime.model import Model, phase_graphs
from whisper_npu.runtime.placement import (
    Forms,
    Region,
    choose,
    place,
    placed_ops,
    replacement,
    settle,
)
from whisper_npu.runtime.plan import Plan
from whisper_npu.runtime.weights import Weights

GRAPHS = {p: {phase: build_phase(phase, SMALL, 3, p) for phase in PHASES} for p in PRECISIONS}
HOST = HostRates(1e9, 1e9)


class Named(Backend):
    """Offers for some kinds, each at a price; or refuses."""

    predicts = True

    def __init__(self, name: str, seconds: Mapping[str, float | None], note: str = "") -> None:
        self.name, self.seconds, self.note = name, seconds, note

    def offer(self, graph: Graph, index: int) -> Offer | Refusal:
        op = graph.ops[index]
        if op.kind not in self.seconds:
            return Refusal(self.name, f"{self.name} has no {op.kind}")
        return Offer(
            self.name, f"{self.name}_{op.kind}", f"{self.name}.{op.kind}", (op,), specify,
            seconds=self.seconds[op.kind], note=self.note,
        )  # fmt: skip


def test_every_op_is_placed_once_and_in_order() -> None:
    for graphs in GRAPHS.values():
        for graph in graphs.values():
            regions = choose(graph, numpy_backends())
            assert [op for region in regions for op in region.ops] == list(graph.ops)
            rows = list(placed_ops(regions))
            assert [(row.phase, row.op, row.kind) for row in rows] == [
                (graph.name, op.name, op.kind) for op in graph.ops
            ]


def test_rank_decides_where_times_are_not_known() -> None:
    graph = GRAPHS["float32"]["step"]
    first = Named("first", {"gelu": None}, note="verified")
    for policy in ("auto", "npu"):
        for host in (None, HOST):
            regions = choose(graph, (first, *numpy_backends(host)), policy)  # type: ignore[arg-type]
            for region in regions:
                of_first = region.ops[0].kind == "gelu"
                assert (region.offer.backend == "first") == of_first
                if of_first:
                    of_numpy = "" if host is None else "; ms of NumPy"
                    assert region.reason == f"verified; by rank{of_numpy}"
                else:
                    assert region.reason == f"first has no {region.ops[0].kind}"
                assert (region.seconds is None) == (host is None)


@pytest.mark.parametrize(
    ("policy", "seconds", "backend"),
    [
        ("auto", 0.5, "kernel"),
        ("auto", 2.0, "other"),
        # A tie stays with the rank.
        ("auto", 1.0, "kernel"),
        ("npu", 2.0, "kernel"),
    ],
)
def test_the_faster_is_taken_where_times_are_known(
    policy: str, seconds: float, backend: str
) -> None:
    graph = GRAPHS["float32"]["step"]
    kernel = Named("kernel", {"gelu": seconds}, note="verified")
    other = Named("other", {"gelu": 1.0})
    regions = choose(graph, (kernel, other, Specification()), policy)  # type: ignore[arg-type]
    (found,) = {(r.offer.backend, r.reason) for r in regions if r.ops[0].kind == "gelu"}
    reason = {
        "kernel": "verified; 1000.00 ms on NumPy",
        "other": "faster: 1000.00 ms, 2000.00 ms on kernel_gelu",
    }
    assert found == (backend, reason[backend])


def test_what_rank_leaves_is_at_most_as_slow_as_numpy() -> None:
    """A kernel without a time, between one that is slow and NumPy: NumPy's time is its bound."""
    graph = GRAPHS["float32"]["step"]
    slow, unknown = Named("slow", {"gelu": 2.0}), Named("unknown", {"gelu": None})
    numpy = Named("numpy", {"gelu": 1.0})
    regions = choose(graph, (slow, unknown, numpy, Specification()), "auto")
    assert {(r.offer.backend, r.seconds) for r in regions if r.ops[0].kind == "gelu"} == {
        ("unknown", 1.0)
    }


def test_a_kernel_that_is_slower_is_named_among_the_refusals() -> None:
    graph = GRAPHS["float32"]["step"]
    slow = Named("slow", {"gelu": 2.0}, note="verified")
    cpu = Named("cpu", {"gelu": None}, note="verified here")
    regions = choose(graph, (slow, cpu, *numpy_backends(HostRates(1e30, 1e30))), "auto")
    (region, *_) = (region for region in regions if region.ops[0].kind == "gelu")
    assert region.offer.backend == "cpu"
    assert region.refusals == (Refusal("slow", "slower: 2000.00 ms, others 0.00 ms"),)


def test_others_that_run_nothing_are_no_reason_to_raise() -> None:
    graph = GRAPHS["float32"]["step"]
    all_kinds = dict.fromkeys({op.kind for op in graph.ops})
    first, nothing = Named("first", all_kinds), Named("nothing", {})
    for policy in ("auto", "npu"):
        regions = choose(graph, (first, nothing), policy)  # type: ignore[arg-type]
        assert {(region.offer.backend, region.seconds) for region in regions} == {("first", None)}


def test_a_shorter_prompt_is_compared_with_a_longer_region() -> None:
    """Others that reach beyond the ops of an offer are not compared with it."""
    graph = two_products(False)

    class Longer(Backend):
        name = "longer"
        predicts = True

        def offer(self, graph: Graph, index: int) -> Offer | Refusal:
            if index:
                return Refusal(self.name, "begins with the first")
            return Offer(self.name, "longer", "longer", graph.ops[:2], specify, seconds=0.1)

    single = Named("single", {"linear": 1.0, "gelu": 1.0, "add": 1.0})
    regions = choose(graph, (single, Longer(), Specification()), "auto")
    assert [region.offer.backend for region in regions] == ["single"] * 3


class Elsewhere(Backend):
    """Offers an op that it was not asked for."""

    name = "elsewhere"

    def offer(self, graph: Graph, index: int) -> Offer:
        return Offer(self.name, "elsewhere", "elsewhere", graph.ops[1:2], specify)


def test_an_offer_for_other_ops_is_a_defect() -> None:
    with pytest.raises(ValueError, match="elsewhere offers ops that do not begin with Op"):
        choose(two_products(False), (Elsewhere(),))


def test_a_region_of_two_ops_is_launched_once() -> None:
    graph = two_products(False)
    offer = Offer(
        "npu", "fused", "fused", graph.ops[:2], specify, seconds=2.0, launches=1, bytes_in=3,
        bytes_out=4, resident_bytes=5, weight="w",
    )  # fmt: skip
    first, second = placed_ops([Region("two", offer, "because", (), 2.0)])
    fields = ("launches", "bytes_in", "bytes_out", "resident_bytes", "seconds", "weight")
    assert [getattr(first, field) for field in fields] == [1, 3, 4, 5, 2.0, "w"]
    assert [getattr(second, field) for field in fields] == [0, 0, 0, 0, 0.0, None]
    assert first.region == second.region == ("h", "g")


def test_refusals_are_kept_in_order_of_rank() -> None:
    graph = GRAPHS["float32"]["step"]
    regions = choose(graph, (Named("a", {}), Named("b", {}), Specification()))
    for region in regions:
        kind = region.ops[0].kind
        assert region.refusals == (
            Refusal("a", f"a has no {kind}"),
            Refusal("b", f"b has no {kind}"),
        )
        assert region.reason == f"a has no {kind}"
    (row, *_) = placed_ops(regions)
    assert row.refusals == {"a": "a has no embed", "b": "b has no embed"}


def test_an_op_that_nobody_runs() -> None:
    with pytest.raises(ValueError, match=r"no backend runs op embedded \(embed\) of step"):
        choose(GRAPHS["float32"]["step"], (Named("a", {}),))


# Of a product in two halves, of which the first is also read by others.
def two_products(read_again: bool) -> Graph:
    shapes = {"x": (1, 4, 6), "h": (1, 4, 5), "g": (1, 4, 5), "y": (1, 4, 5)}
    tensors = [
        Tensor("x", shapes["x"], "float32", "input"),
        Tensor("w", (5, 6), "float32", "weight"),
        Tensor("b", (5,), "float32", "weight"),
        Tensor("h", shapes["h"], "float32", "activation"),
        Tensor("g", shapes["g"], "float32", "activation"),
        Tensor("y", shapes["y"], "float32", "output"),
    ]
    ops = [
        Op("h", "linear", ("x", "w", "b"), ("h",)),
        Op("g", "gelu", ("h",), ("g",)),
        Op("y", "add", ("g", "h" if read_again else "g"), ("y",)),
    ]
    graph = Graph("two", tuple(tensors), tuple(ops))
    validate(graph)
    return graph


def test_a_chain_ends_where_others_read() -> None:
    alone, shared = two_products(False), two_products(True)
    assert chain(alone, 0, "linear", "gelu") == alone.ops[:2]
    assert chain(shared, 0, "linear", "gelu") is None
    assert chain(alone, 1, "linear", "gelu") is None
    assert chain(alone, 2, "add", "gelu") is None
    assert [tensor.name for tensor in inner_tensors(alone, alone.ops[:2])] == ["h"]
    assert inner_tensors(shared, shared.ops[:2]) == ()


class Greedy(Backend):
    """Offers two ops as one, whoever reads what is between them."""

    name = "greedy"

    def offer(self, graph: Graph, index: int) -> Offer:
        ops = graph.ops[index : index + 2]
        return Offer(self.name, "greedy", "greedy", ops, specify, seconds=1.0)


def test_a_region_that_hides_what_others_read_is_a_defect() -> None:
    with pytest.raises(ValueError, match="greedy offers a region within which h is lost"):
        choose(two_products(True), (Greedy(), Specification()))


def test_a_region_is_compared_with_all_that_it_stands_for() -> None:
    graph = two_products(False)
    fused = Offer("fused", "fused", "fused", graph.ops[:2], specify, seconds=3.0, note="verified")

    class Fused(Backend):
        name = "fused"

        def offer(self, graph: Graph, index: int) -> Offer | Refusal:
            return fused if index == 0 else Refusal(self.name, "one at most")

    def chosen(product: float, gelu: float) -> tuple[str, float | None]:
        single = Named("single", {"linear": product, "gelu": gelu, "add": 1.0})
        region, *_ = choose(graph, (Fused(), single), "auto")
        return region.offer.backend, region.seconds

    assert chosen(2.0, 2.0) == ("fused", 3.0)
    assert chosen(2.0, 1.0) == ("fused", 3.0)
    assert chosen(2.0, 0.5) == ("single", 2.0)


class Takes(Backend):
    """Runs all products; takes their weights in these forms."""

    def __init__(self, name: str, kinds: Sequence[str], forms: tuple[Form, ...]) -> None:
        self.name, self.kinds, self.forms = name, kinds, forms

    def offer(self, graph: Graph, index: int) -> Offer | Refusal:
        op = graph.ops[index]
        names = [n for n in (*op.inputs, *op.outputs) if n in ("w", "s")]
        if op.kind not in self.kinds:
            return Refusal(self.name, "another kind")
        forms = dict.fromkeys(names, self.forms)
        return Offer(self.name, self.name, self.name, (op,), specify, forms=forms)


ROWS, COLUMNS, BYTES = Form("float32"), Form("float32", "F"), Form("int8")


def readers(role: str) -> Graph:
    """Two ops of different kinds that read one tensor."""
    tensors = [
        Tensor("x", (2, 3), "float32", "input"),
        Tensor("w", (2, 3), "float32", role),  # type: ignore[arg-type]
        Tensor("a", (2, 3), "float32", "output"),
        Tensor("b", (2, 2), "float32", "output"),
    ]
    ops = (Op("a", "add", ("x", "w"), ("a",)), Op("b", "linear", ("x", "w"), ("b",)))
    return Graph("readers", tuple(tensors), ops)


@pytest.mark.parametrize(
    ("first", "second", "held"),
    [
        ((ROWS,), (ROWS,), (ROWS,)),
        ((ROWS, BYTES), (COLUMNS, BYTES), (BYTES,)),
        ((COLUMNS, ROWS), (ROWS,), (ROWS,)),
        ((ROWS, COLUMNS), (ROWS, COLUMNS), (ROWS,)),
        ((ROWS,), (COLUMNS,), (ROWS, COLUMNS)),
    ],
)
def test_a_weight_is_held_in_as_few_forms_as_its_readers_allow(
    first: tuple[Form, ...], second: tuple[Form, ...], held: tuple[Form, ...]
) -> None:
    graph = readers("weight")
    backends = (Takes("a", ["add"], first), Takes("b", ["linear"], second))
    regions = choose(graph, backends)
    forms = settle([(graph, regions)])
    assert forms.weights == {"w": held}
    placed = place(graph, regions, forms)
    names = {name: form for name, (_, form) in placed.weights.items()}
    assert list(names.values()) == list(held)
    # Each form is a tensor of the graph, which says what it is.
    for name, form in names.items():
        tensor = placed.graph[name]
        assert (tensor.dtype, tensor.order, tensor.role) == (form.dtype, form.order, "weight")
    assert placed.graph.ops[0].inputs == ("x", "w")
    assert placed.graph.ops[1].inputs[1] == ("w" if len(held) == 1 else f"w ({COLUMNS})")


def test_a_state_has_one_form() -> None:
    graph = readers("state")
    common = settle([(graph, choose(graph, (Takes("a", ["add"], (ROWS, BYTES)),
                                            Takes("b", ["linear"], (BYTES,)))))])  # fmt: skip
    assert common.states == {"w": BYTES}
    backends = (
        Takes("a", ["add"], (COLUMNS,)),
        Takes("b", ["linear"], (BYTES,)),
        Named("c", dict.fromkeys(["add", "linear"], None)),
    )
    machine = Machine(backends)
    forms = machine.settle([graph])
    assert forms.states == {"w": ROWS}
    # Those that cannot take it so leave their ops to others.
    regions = machine.choose(graph, forms)
    assert {region.offer.backend for region in regions} == {"c"}
    assert regions[0].refusals == (
        Refusal("a", "w is float32 by rows"),
        Refusal("b", "another kind"),
    )


def test_the_form_of_a_state_is_that_which_readers_like_best() -> None:
    graph = readers("state")
    both = (Takes("a", ["add"], (BYTES, ROWS)), Takes("b", ["linear"], (ROWS, BYTES)))
    assert settle([(graph, choose(graph, both))]).states == {"w": BYTES}


def test_weights_are_settled_for_those_that_read_them_in_the_end() -> None:
    """A backend that cannot take a state leaves its op, and its weight, to another."""
    tensors = (
        Tensor("x", (2, 3), "float32", "input"),
        Tensor("s", (2, 3), "float32", "state"),
        Tensor("w", (2, 3), "float32", "weight"),
        Tensor("a", (2, 3), "float32", "output"),
        Tensor("b", (2, 3), "float32", "output"),
    )
    ops = (Op("a", "add", ("x", "s"), ("a",)), Op("b", "mul", ("w", "s"), ("b",)))
    graph = Graph("g", tensors, ops)

    class Picky(Takes):
        def offer(self, graph: Graph, index: int) -> Offer | Refusal:
            answer = super().offer(graph, index)
            if isinstance(answer, Offer) and index == 1:
                return answer._replace(forms={"w": (COLUMNS,), "s": (BYTES,)})
            return answer

    picky, plain = Picky("picky", ["mul"], ()), Takes("plain", ["add", "mul"], (ROWS,))
    machine = Machine((picky, plain))
    forms = machine.settle([graph])
    assert forms.states == {"s": ROWS}
    assert forms.weights == {"w": (ROWS,)}
    assert [region.offer.backend for region in machine.choose(graph, forms)] == ["plain", "plain"]


def test_a_reader_gets_the_held_form_that_it_likes_best() -> None:
    graph = readers("weight")
    forms = Forms({"w": (ROWS, COLUMNS)})
    regions = choose(graph, (Takes("a", ["add", "linear"], (BYTES, COLUMNS, ROWS)),))
    placed = place(graph, regions, forms)
    assert {form for _, form in placed.weights.values()} == {COLUMNS}


def test_auto_takes_weights_as_they_are_held() -> None:
    """What is faster for another shape is not worth a second copy of the weights."""
    graph = readers("weight")

    class Timed(Takes):
        predicts = True
        seconds = 1.0

        def offer(self, graph: Graph, index: int) -> Offer | Refusal:
            answer = super().offer(graph, index)
            return answer if isinstance(answer, Refusal) else answer._replace(seconds=self.seconds)

    kinds = ["add", "linear"]
    fast, slow = Timed("fast", kinds, (BYTES,)), Timed("slow", kinds, (ROWS,))
    fast.seconds = 0.1
    for policy, backend in (("auto", "slow"), ("npu", "fast")):
        regions = choose(graph, (fast, slow), policy, Forms({"w": (ROWS,)}))  # type: ignore[arg-type]
        assert {region.offer.backend for region in regions} == {backend}
    # Where nobody takes them so, they are had in another form.
    regions = choose(graph, (fast, slow), "auto", Forms({"w": (COLUMNS,)}))
    assert {region.offer.backend for region in regions} == {"fast"}


def test_replacements_are_of_lower_rank() -> None:
    graph = two_products(False)
    backends = (Toy(), Named("middle", {"gelu": None}), Specification())
    region, _ = choose(graph, backends)
    found = replacement(region, graph, backends, Forms())
    assert [r.offer.backend for r in found] == ["specification", "middle"]
    assert [op for r in found for op in r.ops] == list(graph.ops[:2])


def toy_model(checkpoint: Checkpoint, precision: Precision) -> Model:
    return Model(checkpoint, precision, Machine((Toy(), *numpy_backends())))


def outputs(model: Model) -> list[np.ndarray]:
    features = np.random.RandomState(4).standard_normal((1, 80, 60)).astype(np.float32)
    states = model.encode(features)
    session = model.decoder(states)
    return [states, session.prefill([[1, 2, 3]], [2]).copy(), session.step([4]).copy()]


def test_a_backend_of_forty_lines(small_checkpoint: Checkpoint) -> None:
    """It has regions of one op and of two, its weights lie as it wants them, and it is counted."""
    model = toy_model(small_checkpoint, "float32")
    found, expected = outputs(model), outputs(numpy_model(small_checkpoint))
    for a, b in zip(found, expected, strict=True):
        assert np.abs(a - b).max() < 2e-5 * np.abs(b).max()
    usage = model.machine.usage
    counted = usage.placement(usage.counts).ops
    layers = SMALL.n_audio_layer + 2 * SMALL.n_text_layer
    assert counted["gelu"] == {"run_gelu": 2, "run_linear_gelu": layers}
    assert counted["linear"]["run_linear_gelu"] == layers
    for plan in (model._encoder._made[1], *_decoder_plans(model)):
        fused = [row.region for row in placed_ops(plan.regions) if len(row.region) > 1]
        assert {name for region in fused for name in region} == {
            op.name for op in plan.graph.ops if op.name.endswith((".fc1", ".gelu"))
        } - {"conv1.gelu", "conv2.gelu"}
        weights = [t for t in plan.graph.role("weight") if t.name.endswith(".fc1.weight")]
        assert {tensor.order for tensor in weights} == {"F"}


def _decoder_plans(model: Model) -> list[Plan]:
    (plans,) = model._decoder._steps._made.values()
    return [plans.step, *model._decoder._prefills._made.values()]


def test_inner_tensors_have_no_memory(small_checkpoint: Checkpoint) -> None:
    model = toy_model(small_checkpoint, "float32")
    outputs(model)
    plan = model._encoder._made[1]
    assert "encoder.0.fc1" not in plan._arrays
    inner = {tensor.name for tensor in plan.graph.role("inner")}
    assert inner == {f"encoder.{i}.fc1" for i in range(SMALL.n_audio_layer)}
    assert plan._arrays.keys() == {tensor.name for tensor in plan.graph.tensors} - inner


def test_observers_see_regions(small_checkpoint: Checkpoint) -> None:
    model = toy_model(small_checkpoint, "float32")
    seen: list[str] = []
    model.encode(np.zeros((1, 80, 60), np.float32), lambda name, array: seen.append(name))
    assert "encoder.0.gelu" in seen
    assert "encoder.0.fc1" not in seen


class Refusing(Toy):
    """Its products cannot be bound, or cannot have their weights."""

    name = "refusing"

    def __init__(self) -> None:
        self.told: list[str] = []

    def offer(self, graph: Graph, index: int) -> Offer | Refusal:
        answer = super().offer(graph, index)
        if isinstance(answer, Refusal):
            return answer._replace(backend=self.name)
        return answer._replace(backend=self.name, bind=partial(self.bind, answer))

    def bind(self, offer: Offer, bound: Bound) -> Step:
        if len(bound.ops) > 1:
            raise KernelError("no room")
        return offer.bind(bound)

    def failed(self, graph: Graph, offer: Offer, error: KernelError) -> None:
        self.told.append(f"{graph.name}/{offer.ops[0].name}: {error}")


def test_a_region_that_cannot_be_bound_is_left_to_others(small_checkpoint: Checkpoint) -> None:
    refusing = Refusing()
    model = Model(small_checkpoint, "float32", Machine((refusing, *numpy_backends())))
    states = model.encode(np.zeros((1, 80, 60), np.float32))
    assert np.abs(states - numpy_model(small_checkpoint).encode(
        np.zeros((1, 80, 60), np.float32))).max() < 2e-5  # fmt: skip
    layers = range(SMALL.n_audio_layer)
    assert refusing.told == [f"encoder/encoder.{i}.fc1: no room" for i in layers]
    plan = model._encoder._made[1]
    backends = {op.name: r.offer.backend for r in plan.regions for op in r.ops}
    # The GELU of the region goes to the next in rank, too.
    assert backends["encoder.0.fc1"] != "refusing"
    assert backends["encoder.0.gelu"] != "refusing"
    assert backends["conv1.gelu"] == "refusing"


class RefusingCross(Refusing):
    """Attention to the audio cannot be bound; it had asked for no scratch, or for too little."""

    name = "refusing cross"

    def __init__(self, scratch: tuple[int, ...] | None) -> None:
        super().__init__()
        self.asked = scratch

    def offer(self, graph: Graph, index: int) -> Offer | Refusal:
        op = graph.ops[index]
        if op.kind not in ("cross_attention", "gelu"):
            return Refusal(self.name, "another kind")
        in_place = op.kind == "gelu"
        return Offer(self.name, "k", "f", (op,), self.fail, scratch=self.asked, in_place=in_place)

    def fail(self, bound: Bound) -> Step:
        raise KernelError("no room")


class Apart(Specification):
    """The specification, which asks for no scratch, and whose GELU needs an output of its own."""

    name = "apart"

    def offer(self, graph: Graph, index: int) -> Offer | Refusal:
        answer = super().offer(graph, index)
        assert isinstance(answer, Offer)
        answer = answer._replace(backend=self.name, in_place=False, scratch=None)
        gelu = answer.ops[0].kind == "gelu"
        return answer._replace(bind=self.scribble) if gelu else answer

    def scribble(self, bound: Bound) -> Step:
        (x,), (out,) = bound.inputs, bound.outputs

        def step() -> None:
            out[...] = np.nan
            run_gelu(x, out)

        return step


@pytest.mark.parametrize("scratch", [None, (1,)])
def test_those_that_stand_in_have_memory_of_their_own(
    small_checkpoint: Checkpoint, scratch: tuple[int, ...] | None
) -> None:
    """Scratch, and outputs that were to lie over an input."""

    def logits(model: Model) -> np.ndarray:
        states = np.random.RandomState(3).standard_normal((2, 30, 24)).astype(np.float32)
        session = model.decoder(states, 3)
        session.prefill([[1, 2, 3]] * 2, [2])
        return session.step([4, 5, 6, 7, 8, 9]).copy()

    expected = logits(numpy_model(small_checkpoint))
    for others in (numpy_backends(), (Apart(),)):
        machine = Machine((RefusingCross(scratch), *others))
        found = logits(Model(small_checkpoint, "float32", machine))
        assert np.abs(found - expected).max() < 2e-5 * np.abs(expected).max()


def test_a_region_may_stand_in_for_a_region(small_checkpoint: Checkpoint) -> None:
    machine = Machine((Refusing(), Toy(), *numpy_backends()))
    model = Model(small_checkpoint, "float32", machine)
    found, expected = outputs(model), outputs(toy_model(small_checkpoint, "float32"))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    plan = model._encoder._made[1]
    assert "run_linear_gelu" in {row.backend for row in placed_ops(plan.regions)}
    check_functions(plan)


def test_a_backend_that_does_not_expect_to_fail_does_not_fail_silently() -> None:
    class Broken(Toy):
        def offer(self, graph: Graph, index: int) -> Offer | Refusal:
            answer = super().offer(graph, index)
            return answer if isinstance(answer, Refusal) else answer._replace(bind=self.broken)

        def broken(self, bound: Bound) -> Step:
            raise KernelError("broken")

    graph = two_products(True)
    weights = Weights({"w": np.ones((5, 6), "f"), "b": np.ones(5, "f")})
    with pytest.raises(KernelError, match="broken"):
        Plan(graph, weights, {}, Machine((Broken(), Specification())))


def check_functions(plan: Plan) -> None:
    """What was called in the last run is what the placement says, op by op."""
    printed = {row.op: row.function for row in placed_ops(plan.regions)}
    called = {
        op.name: function
        for region, function in zip(plan.regions, plan.functions, strict=True)
        for op in region.ops
    }
    assert called == printed


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("make", [numpy_model, toy_model])
def test_what_ran_is_what_was_placed(
    small_checkpoint: Checkpoint, make: Callable[[Checkpoint, Precision], Model],
    precision: Precision,
) -> None:  # fmt: skip
    model = make(small_checkpoint, precision)
    outputs(model)
    graphs = {graph.name: graph for graph in phase_graphs(model.dims, precision)}
    (cross,) = model._decoder._cross._plans
    assert cross is not None
    for plan in (model._encoder._made[1], cross, *_decoder_plans(model)):
        check_functions(plan)
        if plan.graph.name in ("encoder", "step"):
            # And what is printed for this phase, from the graphs alone.
            forms = model.machine.settle(graphs.values())
            regions = model.machine.place(graphs[plan.graph.name], forms).regions
            assert list(placed_ops(regions)) == list(placed_ops(plan.regions))


def test_a_wrong_step_is_seen(small_checkpoint: Checkpoint) -> None:
    class Wrong(Specification):
        """Binds GELU where it was placed, but to another function than it says."""

        def offer(self, graph: Graph, index: int) -> Offer | Refusal:
            answer = super().offer(graph, index)
            assert isinstance(answer, Offer)
            wrong = answer.ops[0].name == "encoder.1.gelu"
            return answer._replace(bind=self.wrong) if wrong else answer

        def wrong(self, bound: Bound) -> Step:
            return partial(run_gelu, *bound.inputs, *bound.outputs)

    model = Model(small_checkpoint, "float32", Machine((Wrong(),)))
    model.encode(np.zeros((1, 80, 60), np.float32))
    with pytest.raises(AssertionError, match=r"encoder\.1\.gelu"):
        check_functions(model._encoder._made[1])


def test_the_function_of_a_step_is_read_off_the_step() -> None:
    assert function_of(partial(partial(run_gelu, 1), 2)) == name_of(run_gelu)
    assert function_of(run_linear_gelu).endswith("toy_backend.run_linear_gelu")

    class Changing:
        function = "first"

        def __call__(self) -> None:
            self.function = "second"

    step = Changing()
    assert function_of(partial(step)) == "first"
    step()
    assert function_of(step) == "second"


def test_regions_of_numpy_have_the_time_of_the_model_of_numpy() -> None:
    graph = GRAPHS["int8"]["encoder"]
    regions: tuple[Region, ...] = choose(graph, numpy_backends(HOST), "auto")
    assert all(region.seconds and region.seconds > 0 for region in regions)
    assert all(r.seconds is None for r in choose(graph, numpy_backends(), "auto"))


def test_forms_are_named_for_people() -> None:
    assert [str(form) for form in (ROWS, COLUMNS, BYTES)] == [
        "float32 by rows", "float32 by columns", "int8 by rows",
    ]  # fmt: skip
    assert Forms().weights == {}
