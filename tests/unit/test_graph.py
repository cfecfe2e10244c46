from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from whisper_npu.model.builders import (
    PHASES,
    build_align,
    build_phase,
    build_prefill,
    build_step,
)
from whisper_npu.model.dims import KNOWN_DIMENSIONS
from whisper_npu.model.graph import Graph, Op, Tensor
from whisper_npu.model.graph_builder import CacheRoom
from whisper_npu.model.precision import PRECISIONS, Precision
from whisper_npu.model.validation import GraphError, validate


def chain() -> Graph:
    """x -> gelu -> h -> add(h, x) -> y, the smallest graph with an activation."""
    return Graph(
        "chain",
        (
            Tensor("x", (2, 3), "float32", "input"),
            Tensor("h", (2, 3), "float32", "activation"),
            Tensor("y", (2, 3), "float32", "output"),
        ),
        (Op("first", "gelu", ("x",), ("h",)), Op("second", "add", ("h", "x"), ("y",))),
    )


def assert_problem(graph: Graph, *parts: str) -> None:
    with pytest.raises(GraphError) as caught:
        validate(graph)
    for part in parts:
        assert part in str(caught.value)


def test_a_sound_graph_passes() -> None:
    validate(chain())


def test_graph_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        chain().ops[0].name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("model", KNOWN_DIMENSIONS)
@pytest.mark.parametrize("phase", PHASES)
def test_all_published_models_build(model: str, phase: str) -> None:
    validate(build_phase(phase, KNOWN_DIMENSIONS[model]))


def test_duplicated_tensor() -> None:
    graph = chain()
    assert_problem(
        replace(graph, tensors=(*graph.tensors, graph.tensors[1])), "tensor h is defined 2 times"
    )


def test_duplicated_op() -> None:
    graph = chain()
    assert_problem(replace(graph, ops=(*graph.ops, graph.ops[1])), "op second is defined 2 times")


def test_dangling_input() -> None:
    graph = chain()
    ops = (graph.ops[0], replace(graph.ops[1], inputs=("h", "nowhere")))
    assert_problem(replace(graph, ops=ops), "op second reads nowhere, which is not a tensor")


def test_read_before_written() -> None:
    graph = chain()
    assert_problem(replace(graph, ops=graph.ops[::-1]), "op second reads h before anything")


def test_written_twice() -> None:
    graph = chain()
    third = Op("third", "gelu", ("x",), ("h",))
    assert_problem(replace(graph, ops=(*graph.ops, third)), "op third writes h, which op first has")


def test_weight_overwritten() -> None:
    graph = chain()
    third = Op("third", "gelu", ("h",), ("x",))
    assert_problem(replace(graph, ops=(*graph.ops, third)), "op third writes x, which is a input")


def test_output_never_written() -> None:
    graph = chain()
    tensors = (*graph.tensors, Tensor("z", (1,), "float32", "output"))
    assert_problem(replace(graph, tensors=tensors), "output z is written by no op")


def test_an_event_is_written_by_an_op_and_needs_no_reader() -> None:
    graph = build_step(KNOWN_DIMENSIONS["tiny"], precision="int8")
    sums = [op for op in graph.ops if op.kind == "add_int32"]
    events = {tensor.name: (tensor.shape, tensor.dtype) for tensor in graph.role("event")}
    assert events == dict.fromkeys((op.outputs[1] for op in sums), ((), "int32"))
    assert len(events) == 3 * 4
    tensors = (*graph.tensors, Tensor("z", (), "int32", "event"))
    assert_problem(replace(graph, tensors=tensors), "event z is written by no op")


def test_misshaped_output() -> None:
    graph = chain()
    tensors = (graph.tensors[0], replace(graph.tensors[1], shape=(3, 2)), graph.tensors[2])
    assert_problem(replace(graph, tensors=tensors), "h is [3, 2], but first gives [2, 3]")


def test_misshaped_weight() -> None:
    graph = build_step(KNOWN_DIMENSIONS["tiny"])
    tensors = tuple(
        replace(t, shape=(384, 383)) if t.name.endswith("layers.1.fc2.weight") else t
        for t in graph.tensors
    )
    assert_problem(replace(graph, tensors=tensors), "op decoder.1.fc2 (linear) does not take")


def test_unknown_kind() -> None:
    graph = chain()
    ops = (replace(graph.ops[0], kind="magic"), graph.ops[1])
    assert_problem(replace(graph, ops=ops), "op first is of the unknown kind magic")


def test_unreachable_op_and_unused_tensor() -> None:
    graph = chain()
    extra = Tensor("z", (2, 3), "float32", "activation")
    third = Op("third", "gelu", ("x",), ("z",))
    assert_problem(
        replace(graph, tensors=(*graph.tensors, extra), ops=(*graph.ops, third)),
        "op third reaches no output",
        "activation z is not used",
    )


def test_unknown_dtype() -> None:
    graph = chain()
    tensors = (*graph.tensors[:2], replace(graph.tensors[2], dtype="float128"))
    assert_problem(replace(graph, tensors=tensors), "y cannot be [2, 3] of float128")


def test_several_problems_are_listed_at_once() -> None:
    graph = chain()
    ops = (replace(graph.ops[0], inputs=("a",)), replace(graph.ops[1], inputs=("b", "x")))
    assert_problem(replace(graph, ops=ops), "reads a,", "reads b,")


def test_alignment_head_beyond_the_last() -> None:
    with pytest.raises(ValueError, match="alignment head"):
        build_align(KNOWN_DIMENSIONS["tiny"], 5, [(0, 6)])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_windows_lie_in_caches_with_room_for_them(precision: Precision) -> None:
    dims = KNOWN_DIMENSIONS["tiny"]
    graph = build_step(dims, 2, 3, precision, CacheRoom(5, 4))
    assert [graph[name].shape for name in ("tokens", "position", "slot")] == [(6, 1), (2,), (2,)]
    assert graph["self.0.k"].shape == (5, 4, 6, 448, 64)
    assert graph["cross.0.k"].shape == (5, 6, 1500, 64)
    assert build_step(dims, 2, 3, precision)["self.0.k"].shape == (2, 3, 6, 448, 64)
    # A prompt is that of the first sequence of each window.
    prompt = build_prefill(dims, 4, 2, 1, precision, CacheRoom(5, 4))
    assert (prompt["tokens"].shape, prompt["slot"].shape) == ((2, 4), (2,))
    for room in (CacheRoom(1, 3), CacheRoom(2, 2)):
        with pytest.raises(ValueError, match="cache does not fit"):
            build_step(dims, 2, 3, precision, room)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("name", "shape"),
    [("position", (1,)), ("slot", (1,)), ("slot", (3,)), ("self.1.v", (5, 4, 6, 447, 64))],
)
def test_misshaped_windows(name: str, shape: tuple[int, ...], precision: Precision) -> None:
    graph = build_step(KNOWN_DIMENSIONS["tiny"], 2, 3, precision, CacheRoom(5, 4))
    tensors = tuple(replace(t, shape=shape) if t.name == name else t for t in graph.tensors)
    assert_problem(replace(graph, tensors=tensors), "op decoder.1.attn", "does not take")


def test_lifetimes() -> None:
    assert chain().lifetimes == {"h": (0, 1), "y": (1, 2)}
