"""Plans: what lies where in the arena, and that nothing is written over that is still needed."""

from __future__ import annotations

from functools import partial
from typing import cast

import numpy as np
import pytest

from tests.unit.toy_backend import Toy, run_linear_gelu
from whisper_npu.backends.numpy import numpy_backends
from whisper_npu.backends.numpy.specification import Specification
from whisper_npu.backends.opening import numpy_machine, numpy_model
from whisper_npu.model.builders import build_phase
from whisper_npu.model.checkpoint import Checkpoint
from whisper_npu.model.graph import Graph, Op, Role, Tensor
from whisper_npu.model.precision import PRECISIONS, Precision
from whisper_npu.model.validation import validate
from whisper_npu.ops.activation import gelu
from whisper_npu.runtime.backend import Bound, Offer, Refusal, Step, chain
from whisper_npu.runtime.machine import Machine
from whisper_npu.runtime.model import Model
from whisper_npu.runtime.placement import Forms
from whisper_npu.runtime.plan import Plan, _Memory
from whisper_npu.runtime.weights import Weights

TOKENS = np.random.RandomState(5).randint(0, 50, (2, 12))
# float32 rounding of a few dozen operations on values of order 1 to 10.
TOLERANCE = 2e-5


@pytest.fixture
def model(small_checkpoint: Checkpoint) -> Model:
    return numpy_model(small_checkpoint)


@pytest.fixture
def states(model: Model) -> np.ndarray:
    return model.encode(np.random.RandomState(4).standard_normal((2, 80, 60)).astype(np.float32))


def test_the_arena_is_hardly_larger_than_what_is_alive_at_once(model: Model) -> None:
    model.encode(np.zeros((1, 80, 60), np.float32))
    plan = model._encoder._made[1]
    forms = Forms(model._weights.forms, model._network.states)
    memory = _Memory(graph_of(model, "encoder"), plan.regions, model.machine, {}, forms)
    blocks = memory.blocks().values()
    peak = max(
        sum(b.nbytes for b in blocks if b.first <= index <= b.last)
        for index in range(len(plan.graph.ops))
    )
    assert peak <= plan.arena_bytes < 1.1 * peak


def graph_of(model: Model, phase: str) -> Graph:
    return build_phase(phase, model.dims, precision=model.precision)


def run_all(model: Model) -> tuple[list[Plan], list[np.ndarray]]:
    """A plan of each phase, in the order in which they first run, and what came out."""
    samples = np.random.RandomState(1).standard_normal(160 * 20 + 400).astype(np.float32)
    found = [model.log_mel(samples)]
    (mel,) = model._mel._made.values()
    features = np.random.RandomState(4).standard_normal((1, 80, 60)).astype(np.float32)
    found.append(model.encode(features))
    (encoder,) = model._encoder._made.values()
    session = model.decoder(found[-1])
    found.append(session.prefill(TOKENS[:1, :5], [0, 4]).copy())
    found.append(session.step([7]).copy())
    decoder = model._decoder
    (cross,) = decoder._cross._plans
    assert cross is not None
    return [mel, encoder, cross, decoder.prefill(1, 5, 2), decoder.step(1, 1).step], found


@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_op_writes_over_what_is_still_needed(
    small_checkpoint: Checkpoint, precision: Precision
) -> None:
    plans, _ = run_all(numpy_model(small_checkpoint, precision))
    n_in_place = 0
    for plan in plans:
        arrays, ops = plan._arrays, list(enumerate(plan.graph.ops))
        first = {name: index for index, op in reversed(ops) for name in op.outputs}
        last = {name: index for index, op in ops for name in op.inputs}
        for index, op in ops:
            written = [arrays[name] for name in op.outputs]
            needed = {name for name in last if first.get(name, -1) < index <= last[name]}
            for name in needed - {*op.outputs}:
                if any(np.shares_memory(array, arrays[name]) for array in written):
                    # Over the first input of an op that can, which nothing else reads.
                    assert op.kind in ("gelu", "add", "gelu_int32", "add_int32")
                    assert (name, last[name]) == (op.inputs[0], index)
                    assert written[0].ctypes.data == arrays[name].ctypes.data
                    n_in_place += 1
    # All GELUs and sums: of convolutions, positions, 2 layers of the encoder, and twice 3 of the
    # decoder. Where there is no norm behind it, the last sum of the encoder is an output.
    last = 1 if precision == "int8" else 0
    assert n_in_place == 2 + 1 + 2 * 3 + 2 * 3 * 4 - last


def test_what_is_read_again_is_not_written_over() -> None:
    names = {"x": "input", "h": "activation", "g": "activation", "y": "output"}
    tensors = [Tensor(name, (3, 5), "float32", cast(Role, role)) for name, role in names.items()]
    ops = [("gelu", ("x",), "h"), ("gelu", ("h",), "g"), ("add", ("g", "h"), "y")]
    graph = Graph("twice", tuple(tensors), tuple(Op(y, kind, xs, (y,)) for kind, xs, y in ops))
    validate(graph)
    plan = Plan(graph, Weights({}), {}, numpy_machine())
    x = np.random.RandomState(0).standard_normal((3, 5)).astype(np.float32)
    plan(x=x)
    np.testing.assert_array_equal(plan.outputs["y"], gelu(gelu(x)) + gelu(x))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_in_place_and_in_one_arena_nothing_changes(
    small_checkpoint: Checkpoint, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = numpy_model(small_checkpoint, precision)
    _, first = run_all(model)
    _, again = run_all(model)
    monkeypatch.setattr("whisper_npu.backends.numpy.specification.IN_PLACE", ())
    monkeypatch.setattr("whisper_npu.backends.numpy.fast.IN_PLACE", ())
    monkeypatch.setattr("whisper_npu.runtime.arena.Arena.take", lambda _, n: np.empty(n, np.uint8))
    plans, apart = run_all(numpy_model(small_checkpoint, precision))
    assert not np.shares_memory(plans[1]._arrays["conv1"], plans[1]._arrays["conv1.gelu"])
    for a, b, c in zip(first, again, apart, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_plans_have_one_arena_and_outputs_of_their_own(model: Model) -> None:
    run_all(model)
    # Again, for the first spectrum was computed before there was an encoder.
    plans, _ = run_all(model)
    memory = model.machine.arena.take(1)
    for plan in plans:
        activations = (*plan.graph.role("activation"), *plan.graph.role("input"))
        assert activations
        for tensor in activations:
            array = plan._arrays[tensor.name]
            assert memory.base is not None
            assert np.shares_memory(array, memory.base)
        for array in plan.outputs.values():
            assert not np.shares_memory(array, memory.base)


def test_logits_outlive_whatever_runs_next(model: Model, states: np.ndarray) -> None:
    session = model.decoder(states)
    prompt = session.prefill(TOKENS[:, :5], [4])
    step = session.step([3, 4])
    kept = prompt.copy(), step.copy()
    model.encode(np.ones((2, 80, 60), np.float32))
    model.log_mel(np.ones(160 * 20 + 400, np.float32))
    other = model.decoder(model.encode(np.ones((1, 80, 60), np.float32)))
    other.align([1, 2, 3], [(0, 1)])
    np.testing.assert_array_equal(prompt, kept[0])
    np.testing.assert_array_equal(step, kept[1])


def test_a_plan_is_given_all_its_inputs(model: Model) -> None:
    plans, _ = run_all(model)
    with pytest.raises(KeyError, match="position"):
        plans[-1](tokens=[[1]])
    with pytest.raises(KeyError, match="slot"):
        plans[-1](tokens=[[1]], position=[0])


def scribbling(
    x: np.ndarray, w: np.ndarray, bias: np.ndarray, out: np.ndarray, scratch: np.ndarray
) -> None:  # [..., k], [n, k], [n] -> [..., n]
    """Writes its output before it reads its input, and all of its scratch in between."""
    out[...] = np.nan
    scratch[...] = np.nan
    run_linear_gelu(x, w, bias, out)
    scratch[...] = np.nan


class Scribbling(Toy):
    """A product with GELU that needs input, output and scratch for as long as it runs."""

    def offer(self, graph: Graph, index: int) -> Offer | Refusal:
        fused = chain(graph, index, "linear", "gelu")
        if fused is None:
            return Refusal(self.name, "another kind")
        offer = super().offer(graph, index)
        assert isinstance(offer, Offer)
        return offer._replace(bind=self.bind, scratch=(999,))

    def bind(self, bound: Bound) -> Step:
        return partial(scribbling, *bound.inputs, *bound.outputs, bound.scratch)


def test_a_region_has_its_memory_until_its_end(small_checkpoint: Checkpoint) -> None:
    found, expected = (
        run_all(Model(small_checkpoint, "float32", Machine((backend, *numpy_backends()))))
        for backend in (Scribbling(), Toy())
    )
    fused = [region for plan in found[0] for region in plan.regions if len(region.ops) > 1]
    assert len(fused) > 3
    for a, b in zip(found[1], expected[1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_a_region_reads_and_writes_is_needed_from_its_first_op_to_its_last() -> None:
    shapes = {"x": (1, 4, 6), "a": (1, 4, 6), "h": (1, 4, 5), "g": (1, 4, 5), "y": (1, 4, 5)}
    roles = {"x": "input", "y": "output"}
    tensors = [
        Tensor(name, shape, "float32", cast(Role, roles.get(name, "activation")))
        for name, shape in shapes.items()
    ]
    tensors += [Tensor(n, s, "float32", "weight") for n, s in (("w", (5, 6)), ("b", (5,)))]
    ops = (
        Op("a", "gelu", ("x",), ("a",)),
        Op("h", "linear", ("a", "w", "b"), ("h",)),
        Op("g", "gelu", ("h",), ("g",)),
        Op("y", "gelu", ("g",), ("y",)),
    )
    graph = Graph("g", tuple(tensors), ops)
    validate(graph)
    machine = Machine((Scribbling(), *numpy_backends()))
    regions = machine.choose(graph)
    assert [len(region.ops) for region in regions] == [1, 2, 1]
    blocks = _Memory(graph, regions, machine, {}, Forms()).blocks()
    spans = {name: (block.first, block.last) for name, block in blocks.items()}
    assert spans == {"x": (0, 0), "a": (0, 2), "g": (1, 3), "scratch of h": (1, 2)}


class NoScratch(Specification):
    """The specification without memory from the plan, as kernels and their stand-ins run."""

    name = "no scratch"

    def offer(self, graph: Graph, index: int) -> Offer:
        return super().offer(graph, index)._replace(scratch=None)


def test_without_scratch_the_specification_allocates(small_checkpoint: Checkpoint) -> None:
    """In float32: the specification of integers has no scratch."""
    found, arenas = [], []
    for backend in (Specification(), NoScratch()):
        plans, outputs = run_all(Model(small_checkpoint, "float32", Machine((backend,))))
        arenas.append(sum(plan.arena_bytes for plan in plans))
        found.append(outputs)
    assert arenas[1] < arenas[0]
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_graph_of_a_plan_is_what_lies_in_memory(
    small_checkpoint: Checkpoint, precision: Precision
) -> None:
    for plan in run_all(numpy_model(small_checkpoint, precision))[0]:
        assert plan._arrays.keys() == {tensor.name for tensor in plan.graph.tensors}
        for tensor in plan.graph.tensors:
            array = plan._arrays[tensor.name]
            assert (array.dtype, array.shape) == (tensor.dtype, tensor.shape), tensor
            assert array.flags.f_contiguous if tensor.order == "F" else array.flags.c_contiguous


def test_a_state_of_another_dtype_or_shape_is_refused(model: Model) -> None:
    graph = graph_of(model, "choice")
    weights, machine = Weights({}), numpy_machine()
    for wrong in (np.zeros((1, 49), np.float32), np.zeros((1, 50), np.float64)):
        with pytest.raises(ValueError, match=r"state logits is .*, not float32 \(1, 50\)"):
            Plan(graph, weights, {"logits": wrong}, machine)
