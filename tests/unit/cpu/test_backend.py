"""Offers and refusals of the CPU backend, and its steps; regions of several ops too."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whisper_npu.backends.cpu import backend as backend_module
from whisper_npu.backends.cpu.backend import CpuBackend, KernelRun, UsableKernels
from whisper_npu.backends.cpu.build import find_build
from whisper_npu.backends.cpu.kernels import KERNELS
from whisper_npu.backends.cpu.kernels.elementwise import ADD, GELU
from whisper_npu.backends.cpu.kernels.fixed_elements import ADD_INT32, GELU_INT32
from whisper_npu.backends.cpu.kernels.layer_norm import LAYER_NORM
from whisper_npu.backends.cpu.library import Library, load_library
from whisper_npu.backends.cpu.op_case import OpCase, Random
from whisper_npu.backends.cpu.records import CpuKernel, Ops, TensorField, Values
from whisper_npu.backends.cpu.verify_library import run_case
from whisper_npu.errors import KernelError
from whisper_npu.model.builders import build_align, build_encoder, build_step
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.model.graph import Graph, Op, Tensor
from whisper_npu.model.precision import Precision
from whisper_npu.ops import activation
from whisper_npu.runtime.backend import Array, Bound, Form, Offer, Refusal, function_of
from whisper_npu.runtime.usage import Usage

DIMS = ModelDimensions(
    n_mels=80, n_audio_ctx=20, n_audio_state=8, n_audio_head=2, n_audio_layer=1,
    n_vocab=60, n_text_ctx=10, n_text_state=8, n_text_head=2, n_text_layer=2,
)  # fmt: skip


PRECISIONS: tuple[Precision, ...] = ("float32", "int8")


@pytest.fixture
def library(cpu_home: Path) -> Library:
    build = find_build()
    assert build is not None
    return load_library(build.path)


def _without(*kernels: CpuKernel) -> tuple[CpuKernel, ...]:
    return tuple(kernel for kernel in KERNELS if kernel not in kernels)


def _answers(backend: CpuBackend, graph: Graph) -> dict[str, Offer | Refusal]:
    return {op.name: backend.offer(graph, index) for index, op in enumerate(graph.ops)}


def _offered(backend: CpuBackend, graph: Graph) -> set[tuple[str, str]]:
    answers = _answers(backend, graph).values()
    return {(o.ops[0].kind, o.kernel) for o in answers if isinstance(o, Offer)}


def _reasons(backend: CpuBackend, graph: Graph) -> dict[str, str]:
    answers = _answers(backend, graph).items()
    return {name: a.reason for name, a in answers if isinstance(a, Refusal)}


def test_offers_for_the_ops_of_a_decoder(library: Library) -> None:
    backend = CpuBackend(UsableKernels(library, KERNELS), Usage(precision="int8"))
    graph = build_step(DIMS, precision="int8")
    assert _reasons(backend, graph) == {}
    kinds = {op.kind for op in graph.ops}
    assert _offered(backend, graph) == {(kind, f"cpu_{kind}") for kind in kinds}
    offers = [o for o in _answers(backend, graph).values() if isinstance(o, Offer)]
    assert {offer.kernel for offer in offers if offer.in_place} == {
        "cpu_gelu_int32", "cpu_add_int32"
    }  # fmt: skip
    # Tensors are taken as the graph has them: weights and cross keys and values as int8.
    assert all(offer.forms == {} for offer in offers)
    for offer in offers:
        assert (offer.backend, offer.function) == ("cpu", offer.kernel)
        assert (offer.seconds, offer.scratch) == (None, None)
        assert offer.note == "verified on this CPU"


def test_refusals_of_what_there_is_no_kernel_for(library: Library) -> None:
    backend = CpuBackend(UsableKernels(library, KERNELS), Usage())
    reasons = set(_reasons(backend, build_encoder(DIMS)).values())
    kinds = ("transpose", "conv1d", "linear")
    assert reasons == {f"there is no kernel for {kind}" for kind in kinds}
    graph = build_align(DIMS, 3, [(1, 0)])
    kept = "scores of alignment heads are kept; NumPy does that"
    assert _reasons(backend, graph)["decoder.1.cross"] == kept
    assert "decoder.0.cross" not in _reasons(backend, graph)


def test_scores_of_integers_are_kept_for_heads_in_their_order(library: Library) -> None:
    backend = CpuBackend(UsableKernels(library, KERNELS), Usage(precision="int8"))
    for heads in ([(1, 0)], [(0, 1), (1, 0), (1, 1)]):
        assert _reasons(backend, build_align(DIMS, 3, heads, "int8")) == {}
    for heads, named in (([(1, 1), (1, 0)], (1, 0)), ([(0, 1), (1, 1), (1, 1)], (1, 1))):
        reason = f"it keeps scores of heads up to 62 in their order, not of {named}"
        graph = build_align(DIMS, 3, heads, "int8")
        assert _reasons(backend, graph) == {"decoder.1.cross": reason}


def test_refusals_of_what_is_not_verified(library: Library) -> None:
    graph = build_encoder(DIMS, precision="int8")
    backend = CpuBackend(
        UsableKernels(library, _without(GELU_INT32, ADD_INT32), (ADD_INT32,)),
        Usage(precision="int8"),
    )
    reasons = _reasons(backend, graph)
    assert reasons["conv1.gelu"] == "cpu_gelu_int32 is not verified on this processor"
    assert reasons["embedded"] == "cpu_add_int32 failed verification"


def test_integers_and_floats_have_attention_of_their_own(library: Library) -> None:
    before, dims = library.isa, replace(DIMS, n_audio_layer=2)
    try:
        for isa in library.isas:
            library.choose_isa(isa)
            for precision in PRECISIONS:
                backend = CpuBackend(UsableKernels(library, KERNELS), Usage(precision=precision))
                answers = _answers(backend, build_encoder(dims, precision=precision))
                # The first layer has 16 bits.
                kinds = ["attention_int32", "attention_int8"]
                if precision == "float32":
                    kinds = ["attention"] * 2
                for layer, kind in enumerate(kinds):
                    offer = answers[f"encoder.{layer}.attn"]
                    assert isinstance(offer, Offer)
                    assert (offer.ops[0].kind, offer.kernel) == (kind, f"cpu_{kind}")
    finally:
        library.choose_isa(before)


def test_a_dtype_that_a_kernel_does_not_take(library: Library) -> None:
    graph = build_step(DIMS, precision="int8")
    wide = [
        replace(t, dtype="float32") if t.name in ("cross.0.v", "self.1.k") else t
        for t in graph.tensors
    ]
    changed = Graph(graph.name, tuple(wide), graph.ops)
    assert _reasons(
        CpuBackend(UsableKernels(library, KERNELS), Usage(precision="int8")), changed
    ) == {
        "decoder.0.cross": "cpu_cross_attention_int32 takes v as int8; cross.0.v is float32",
        "self.1.k": "cpu_store_int16 takes cache as int16; self.1.k is float32",
        "decoder.1.attn": "cpu_cached_attention_int16 takes k as int16; self.1.k is float32",
    }


# A graph of ops on 2 x 6 floats: a = gelu(x), b = a + y, c = b + x.
def _graph(name: str = "toy", role: Any = "activation") -> Graph:
    shape = (2, 6)
    tensors = [
        Tensor("x", shape, "float32", "input"),
        Tensor("y", shape, "float32", "input"),
        Tensor("a", shape, "float32", role),
        Tensor("b", shape, "float32", "activation"),
        Tensor("c", shape, "float32", "output"),
    ]
    ops = (
        Op("a", "gelu", ("x",), ("a",)),
        Op("b", "add", ("a", "y"), ("b",)),
        Op("c", "add", ("b", "x"), ("c",)),
    )
    return Graph(name, tuple(tensors), ops)


def _arrays(seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    arrays: dict[str, Array] = {
        name: rng.standard_normal((2, 6), np.float32) for name in ("x", "y")
    }
    return {**arrays, **{name: np.full((2, 6), np.nan, np.float32) for name in "abc"}}


def _expected(arrays: Mapping[str, Array]) -> Array:
    out = np.empty_like(arrays["x"])
    activation.gelu(arrays["x"], out)
    total: Array = out + arrays["y"]
    return total


def _bind(backend: CpuBackend, graph: Graph, index: int, arrays: Mapping[str, Array]) -> Any:
    offer = backend.offer(graph, index)
    assert isinstance(offer, Offer)
    inner = {name for op in offer.ops[:-1] for name in op.outputs}
    names = {name for op in offer.ops for name in (*op.inputs, *op.outputs)} - inner
    tensors = tuple(graph[name] for name in sorted(inner))
    return offer.bind(Bound(offer.ops, {n: arrays[n] for n in names}, None, tensors))


def _sum_values(ops: Ops, a: Mapping[str, Array]) -> Values:
    return {"count": a["x"].size, "period": a["y"].size}


def _sum_cases(rng: Random) -> Iterator[OpCase]:
    ops = (Op("a", "gelu", ("x",), ("a",)), Op("b", "add", ("a", "y"), ("b",)))
    x, y = rng.standard_normal((2, 2, 6), np.float32)
    inner = (Tensor("a", (2, 6), "float32", "activation"),)
    yield OpCase(
        "one", ops, (x, y), (np.empty_like(x),), lambda: np.full((2, 6), 1e-5), inner=inner
    )


# A region of two ops on a function that takes the structure of a sum: what a developer writes.
FUSED = CpuKernel(
    name="cpu_add",
    kinds=("gelu", "add"),
    structure="Add",
    reads=(TensorField("x"), TensorField("y")),
    writes=(TensorField("out"),),
    values=_sum_values,
    cases=_sum_cases,
    layout="x, y and out [count]",
    arithmetic="gelu(x) + y",
    sources=("floats.cc",),
)


class FusedLibrary:
    """The library, with a function in Python in the place of ``cpu_add``: gelu(x) + y."""

    def __init__(self, library: Library, answer: int = 0) -> None:
        self._library, self.answer, self.calls = library, answer, 0

        @ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)
        def fused(address: int) -> int:
            self.calls += 1
            if self.answer == 0:
                args: Any = library.structure("Add").from_address(address)
                x, y, out = (
                    np.frombuffer((ctypes.c_float * args.count).from_address(at), np.float32)
                    for at in (args.x, args.y, args.out)
                )
                activation.gelu(x, out)
                out += y
            return self.answer

        fused.__name__ = "cpu_add"
        self._fused = fused

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def function(self, name: str) -> Any:
        return self._fused if name == "cpu_add" else self._library.function(name)


def _fused_backend(library: Any) -> CpuBackend:
    return CpuBackend(UsableKernels(library, (*_without(ADD), FUSED)), Usage(precision="int8"))


def test_one_kernel_serves_a_chain_of_ops(library: Library) -> None:
    fused = FusedLibrary(library)
    backend, graph, arrays = _fused_backend(fused), _graph(), _arrays()
    offer = backend.offer(graph, 0)
    assert isinstance(offer, Offer)
    assert (offer.ops, offer.kernel) == (graph.ops[:2], "cpu_add")
    step = _bind(backend, graph, 0, arrays)
    step()
    assert fused.calls == 1
    assert np.array_equal(arrays["b"], _expected(arrays))
    # Within the region nothing was written.
    assert np.isnan(arrays["a"]).all()
    assert function_of(step) == "cpu_add"
    (joined,) = backend.join([step, step])
    assert isinstance(joined, KernelRun)
    joined()
    assert fused.calls == 3


def test_a_chain_that_others_look_into_is_no_region(library: Library) -> None:
    backend, graph = _fused_backend(FusedLibrary(library)), _graph()
    for changed in (
        _graph(role="output"),
        replace(graph, ops=(*graph.ops[:2], replace(graph.ops[2], inputs=("b", "a")))),
    ):
        offer = backend.offer(changed, 0)
        assert isinstance(offer, Offer)
        assert (offer.ops, offer.kernel) == (graph.ops[:1], "cpu_gelu")
    assert backend.offer(graph, 2) == Refusal("cpu", "cpu_add is not verified on this processor")


def test_a_chain_is_verified_like_a_single_op(library: Library) -> None:
    fused: Any = FusedLibrary(library)
    (case,) = FUSED.cases(np.random.default_rng(0))
    failure, worst = run_case(fused, FUSED, case)
    assert failure is None
    assert worst < 1e-2
    # The sum alone is not what the ops specify.
    failure, _ = run_case(library, FUSED, case)
    assert failure is not None
    assert "times what is allowed" in failure


def test_a_chain_that_its_kernel_refuses(library: Library) -> None:
    fused = FusedLibrary(library, answer=3)
    backend, graph, arrays = _fused_backend(fused), _graph(), _arrays()
    step = _bind(backend, graph, 0, arrays)
    joined = backend.join([step])
    assert function_of(step) == "cpu_add"
    joined[0]()
    assert np.array_equal(arrays["b"], _expected(arrays))
    assert function_of(step) == "backends.numpy.specification.specify_region"
    step()
    events = backend.usage.fallbacks
    assert [(e.phase, e.op, e.kernel) for e in events] == [
        ("toy", "a", "cpu_add"),
        ("toy", "b", "cpu_add"),
    ]
    # Two runs of two ops on NumPy.
    backend.usage.ran("phase", {}, 0.0)
    assert backend.usage.counts.ops == {
        ("gelu", "cpu_add"): -2, ("gelu", "numpy"): 2, ("add", "cpu_add"): -2, ("add", "numpy"): 2
    }  # fmt: skip
    # No kernel gets an op again that failed; one of the same name in another phase it does.
    refused = Refusal("cpu", "cpu_add did not take its Add")
    assert [backend.offer(graph, 0), backend.offer(graph, 1)] == [refused, refused]
    assert {event.detail for event in events} == {refused.reason}
    assert isinstance(backend.offer(_graph("other"), 0), Offer)


def test_a_step_says_what_it_calls(library: Library) -> None:
    backend, arrays = CpuBackend(UsableKernels(library, KERNELS), Usage()), _arrays()
    step = _bind(backend, _graph(), 0, arrays)
    step()
    assert step.function == function_of(step) == "cpu_gelu"
    step.instead()
    assert function_of(step) == "ops.activation.gelu"


@pytest.mark.parametrize("wrong", ["x", "a"])
def test_arrays_that_lie_otherwise_raise_and_no_kernel_is_called(
    library: Library, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    called: list[int] = []
    function = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)(lambda at: called.append(at) or 0)
    monkeypatch.setattr(Library, "function", lambda self, name: function)
    backend, arrays = CpuBackend(UsableKernels(library, KERNELS), Usage()), _arrays()
    for array in (
        np.zeros((6, 2), np.float32).T,
        np.zeros((2, 12), np.float32)[:, ::2],
        np.zeros((2, 6)),
    ):
        with pytest.raises(ValueError, match=rf"^op a: cpu_gelu takes {wrong} as float32 by rows"):
            _bind(backend, _graph(), 0, {**arrays, wrong: array})
    assert called == []
    _bind(backend, _graph(), 0, arrays)()
    assert len(called) == 1


def test_a_record_that_does_not_fit_the_library_is_no_backend(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = LAYER_NORM._replace(structure="Gelu")
    with pytest.raises(KernelError, match=r"cpu_layer_norm takes LayerNorm in api\.h"):
        CpuBackend(UsableKernels(library, (wrong,)), Usage())
    monkeypatch.setattr(backend_module, "KERNELS", (wrong,))
    with pytest.raises(KernelError, match=r"cpu_layer_norm takes LayerNorm in api\.h"):
        CpuBackend(UsableKernels(library, ()), Usage())


def test_a_form_of_a_record_is_offered(library: Library) -> None:
    by_columns = Form("float32", "F")
    record = GELU._replace(reads=(TensorField("x", by_columns),))
    backend, arrays = CpuBackend(UsableKernels(library, (record,)), Usage()), _arrays()
    offer = backend.offer(_graph(), 0)
    assert isinstance(offer, Offer)
    assert offer.forms == {"x": (by_columns,)}
    _bind(backend, _graph(), 0, {**arrays, "x": np.zeros((6, 2), np.float32).T})
    with pytest.raises(ValueError, match=r"^op a: cpu_gelu takes x as float32 by columns, not "):
        _bind(backend, _graph(), 0, arrays)
