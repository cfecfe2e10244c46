"""``NpuBackend`` on graphs of one op: offers and why there are none, weights, steps, closing."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from tests.support.npu.entries import contract
from tests.support.npu.gemm_kernels import LARGE, SMALL, evidence_of, gemm_entry
from tests.unit.accelerated import DIMS
from tests.unit.npu.products import bound_product, is_right, product_graph, rows_of
from whisper_npu.backends.npu.backend import NpuBackend
from whisper_npu.backends.npu.device import (
    BufferRefused,
    DeviceError,
    DeviceLost,
    LaunchFailed,
    NoContext,
    NoDevice,
)
from whisper_npu.backends.npu.families.gemm import gemm_shape, product_shape
from whisper_npu.backends.npu.kernel_rates import KernelRates
from whisper_npu.backends.npu.manager import FAILED, UNVERIFIED, VERIFIED, KernelStatus
from whisper_npu.backends.npu.packing import GemmTile, unpack_gemm_weights
from whisper_npu.backends.npu.registry import FileStatus
from whisper_npu.backends.npu.software import SoftwareDevice
from whisper_npu.errors import KernelError
from whisper_npu.model.builders import PHASES, build_phase
from whisper_npu.model.graph import Graph
from whisper_npu.ops.arrays import I8
from whisper_npu.runtime.backend import Array, Offer, Refusal, Step, function_of
from whisper_npu.runtime.usage import Usage

FAST = KernelRates(1e-6, 1e12, 1e12, 1e12, "test")
GRAPHS = {phase: build_phase(phase, DIMS, precision="int8") for phase in PHASES}
BY_NUMPY = "backends.npu.families.gemm.product_int8_tiles"
X, W = (
    np.random.default_rng(seed).integers(-127, 128, shape, np.int8)
    for seed, shape in ((0, (3, 40)), (1, (150, 40)))
)


def status(
    rows: int, state: str = VERIFIED, files: dict[str, FileStatus] | None = None
) -> KernelStatus:
    entry = gemm_entry(rows)
    evidence = None if state == UNVERIFIED else evidence_of(SoftwareDevice().identity, entry)
    return KernelStatus(entry, files or {}, state, evidence)


def backend(
    rates: dict[str, KernelRates] | None = None,
    statuses: Sequence[KernelStatus] = (status(64), status(16)),
    device: SoftwareDevice | None = None,
    check_rate: float = 0.0,
    proving: bool = True,
) -> NpuBackend:
    """With both kernels, the small one verified."""
    rates = {SMALL: FAST} if rates is None else rates
    usage = Usage()
    return NpuBackend(
        device or SoftwareDevice(), statuses, rates, usage, check_rate, proving=proving
    )


def offered(npu: NpuBackend, graph: Graph) -> Offer:
    offer = npu.offer(graph, 0)
    assert isinstance(offer, Offer)
    return offer


def load(offer: Offer, name: str, w: I8, rows: int | None = None) -> Array:
    """The weight in the form that an offer takes, filled so many rows at a time."""
    (form,) = offer.forms[name]
    assert form.packing is not None
    assert str(form) == f"int8 {offer.kernel} tiles"
    packed = form.packing.take(name, w.shape)
    count = form.packing.rows if rows is None else rows
    for start in range(0, len(w), count):
        form.packing.fill(packed, w[start : start + count], start)
    return packed


def products(npu: NpuBackend, phase: str) -> list[Offer | Refusal]:
    graph = GRAPHS[phase]
    return [npu.offer(graph, i) for i, op in enumerate(graph.ops) if op.kind == "product_int8"]


# Offers


def test_only_products_of_integers_are_offered() -> None:
    npu = backend()
    for graph in GRAPHS.values():
        for index, op in enumerate(graph.ops):
            answer = npu.offer(graph, index)
            if op.kind == "product_int8":
                assert isinstance(answer, Offer)
                assert answer.ops == (op,)
            else:
                assert answer == Refusal("npu", f"no kernel is used for {op.kind}")
    for phase in ("encoder", "step"):
        float32 = build_phase(phase, DIMS)
        for index, op in enumerate(float32.ops):
            reason = f"no kernel is used for {op.kind}"
            if op.kind in ("conv1d", "linear"):
                reason = "float32; kernels take int8 (--precision int8)"
            assert npu.offer(float32, index) == Refusal("npu", reason)


def test_what_moves_and_what_stays() -> None:
    for index, op in enumerate(GRAPHS["step"].ops):
        if op.kind == "product_int8":
            offer = backend().offer(GRAPHS["step"], index)
            assert isinstance(offer, Offer)
            shape = gemm_shape(GemmTile(16, 64, 64), *product_shape(GRAPHS["step"], op))
            # A row of int16 is two of int8.
            assert shape.m == 2
            assert (offer.bytes_in, offer.bytes_out) == (shape.bytes_in, shape.bytes_out)
            assert (offer.launches, offer.resident_bytes) == (1, shape.resident_bytes)
            assert (offer.backend, offer.kernel, offer.function) == ("npu", SMALL, SMALL)
            assert (offer.weight, list(offer.forms)) == (op.inputs[2], [op.inputs[2]])
            assert offer.scratch is None
            assert not offer.in_place


def test_the_faster_of_two_kernels() -> None:
    """The one with less padding for one row, the one that moves less for many."""
    moving = replace(FAST, dma_bytes_per_second=1e9)
    both = backend({LARGE: moving, SMALL: moving})
    assert {offer.kernel for offer in products(both, "step")} == {SMALL}  # type: ignore[union-attr]
    wide = build_phase("encoder", replace(DIMS, n_audio_ctx=1500), precision="int8")
    offers = [both.offer(wide, i) for i, op in enumerate(wide.ops) if op.kind == "product_int8"]
    assert {offer.kernel for offer in offers} == {LARGE}  # type: ignore[union-attr]
    slow = backend({LARGE: moving, SMALL: replace(moving, launch_seconds=1.0)})
    assert {offer.kernel for offer in products(slow, "step")} == {LARGE}  # type: ignore[union-attr]


def test_a_weight_that_lies_somewhere_is_used_there() -> None:
    """A longer prompt may be faster on a kernel that does not have the weight."""
    moving = replace(FAST, dma_bytes_per_second=1e9)
    npu = backend({LARGE: moving, SMALL: moving})
    short, long = (product_graph(m, 400, 1500) for m in (1, 1500))
    assert offered(npu, long).kernel == LARGE
    small = offered(npu, short)
    load(small, "w", np.zeros((1500, 400), np.int8))
    assert small.kernel == offered(npu, long).kernel == SMALL
    assert offered(npu, product_graph(1500, 400, 1500, "other")).kernel == LARGE


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (status(64, UNVERIFIED), f"{LARGE} is unverified"),
        (
            status(64, UNVERIFIED, {"xclbin": "absent"}),
            f"{LARGE} is unverified, its xclbin absent",
        ),
        (
            status(64, UNVERIFIED, {"xclbin": "absent", "instructions": "absent"}),
            f"{LARGE} is unverified, its xclbin and instructions absent",
        ),
        (status(64, UNVERIFIED, {"xclbin": "present"}), f"{LARGE} is unverified"),
        (status(64, FAILED), f"{LARGE} failed verification"),
    ],
)
def test_why_there_is_no_kernel(kernel: KernelStatus, reason: str) -> None:
    npu = backend({}, [kernel])
    assert products(npu, "step") == [Refusal("npu", reason)] * len(products(npu, "step"))


def test_all_kernels_that_are_not_used_are_named() -> None:
    npu = backend({}, [status(64, FAILED), status(16, UNVERIFIED)])
    reason = f"{LARGE} failed verification; {SMALL} is unverified"
    assert products(npu, "step")[0] == Refusal("npu", reason)


def test_no_kernel_is_known() -> None:
    other = KernelStatus(replace(gemm_entry(64), contract=contract()), {}, VERIFIED, None)
    npu = backend({"mine": FAST}, [other])
    assert products(npu, "step")[0] == Refusal("npu", "the registry has no kernel for it")
    assert npu.describe_rates() == []


def test_rates_are_described() -> None:
    rates = {LARGE: replace(FAST, launch_seconds=2e-4, source="a source")}
    assert backend(rates).describe_rates() == [
        f"{LARGE}: 200 us a launch, 1000 GOPS, DMA 1000 GB/s, copies 1000.0 GB/s (a source)"
    ]


def test_a_described_kernel_is_offered_and_cannot_be_had() -> None:
    npu = NpuBackend(None, [status(64, UNVERIFIED)], {LARGE: FAST}, Usage())
    offer = offered(npu, product_graph(3, 40, 150))
    assert offer.note == "taken to be verified"
    assert offered(backend(), product_graph(3, 40, 150)).note == "verified"
    with pytest.raises(NoDevice, match="is described alone"):
        load(offer, "w", W)
    with pytest.raises(NoDevice):
        npu.open([LARGE])


# Steps


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("rows", [64, 128, 192])
def test_a_weight_lies_in_the_kernels_buffer_alone(rows: int, bits: int) -> None:
    device = SoftwareDevice()
    npu = backend(device=device, check_rate=1.0)
    graph = product_graph(3, 40, 150, dtype=f"int{bits}")
    offer = offered(npu, graph)
    packed = load(offer, "w", W, rows)
    assert np.array_equal(unpack_gemm_weights(packed, 150, 40, GemmTile(16, 64, 64)), W)
    assert npu.usage.resident_bytes == device.traffic.to_device == 0
    made = bound_product(graph, rows_of(3, 40, bits), packed)
    step = offer.bind(made)
    assert npu.usage.resident_bytes == device.traffic.to_device == offer.resident_bytes
    again = offered(npu, graph).bind(made)
    assert npu.usage.resident_bytes == device.traffic.to_device == offer.resident_bytes
    for run in (step, again, step):
        run()
        assert is_right(made, W)
    usage = npu.usage
    assert usage.counts.launches == usage.counts.checks == device.traffic.launches == 3
    assert usage.counts.proofs == 3
    assert usage.counts.bytes_to_device == device.traffic.to_device - offer.resident_bytes
    assert usage.counts.bytes_from_device == device.traffic.from_device == 3 * offer.bytes_out
    assert (function_of(step), usage.fallbacks, usage.counts.ops) == (SMALL, [], {})


def test_a_check_reads_the_weight_where_it_lies() -> None:
    def corrupt(count: int, outputs: Sequence[np.ndarray]) -> None:
        outputs[0].view(np.int32)[5] -= 1

    npu = backend(device=SoftwareDevice(corrupt=corrupt), check_rate=1.0, proving=False)
    graph = product_graph(3, 40, 150)
    offer = offered(npu, graph)
    made = bound_product(graph, X, load(offer, "w", W))
    step = offer.bind(made)
    step()
    assert is_right(made, W)
    assert function_of(step) == BY_NUMPY
    (event,) = npu.usage.fallbacks
    assert event.detail == (
        f"{SMALL}: 1 of 450 sums of product were wrong; the kernel is not used any more"
    )


def failing(
    action: str, nth: int, error: DeviceError
) -> Callable[[str, str, int], DeviceError | None]:
    return lambda what, kernel, count: error if (what, count) == (action, nth) else None


@pytest.mark.parametrize(
    ("action", "nth"), [("launch", 0), ("launch", 1), ("program", 0), ("buffer", 1), ("buffer", 2)]
)
@pytest.mark.parametrize("error", [LaunchFailed, BufferRefused, NoContext, DeviceLost])
def test_numpy_computes_from_the_tiles(
    action: str, nth: int, error: type[DeviceError], caplog: pytest.LogCaptureFixture
) -> None:
    """In this step and in those that are bound later, whatever has become of the device."""
    npu = backend(device=SoftwareDevice(failing(action, nth, error("no"))))
    graph = product_graph(3, 40, 150)
    offer = offered(npu, graph)
    made = bound_product(graph, X, load(offer, "w", W))
    step = offer.bind(made)
    with caplog.at_level(logging.WARNING, "whisper_npu"):
        for _ in range(3):
            step()
            assert is_right(made, W)
    launched = nth if action == "launch" else 0
    assert npu.usage.counts.launches == launched
    assert function_of(step) == BY_NUMPY
    npu.usage.ran("phase", {}, 0.0)
    assert npu.usage.counts.ops == {
        ("product_int8", SMALL): launched - 3, ("product_int8", "numpy"): 3 - launched
    }  # fmt: skip
    again = offered(npu, graph).bind(made)
    assert function_of(again) == BY_NUMPY
    again()
    assert is_right(made, W)
    events = [(e.phase, e.op, e.kernel, e.reason) for e in npu.usage.fallbacks]
    assert events == [("phase", "product", SMALL, error.reason)]
    # The op of another phase is launched, unless there is nothing to launch it on.
    other = replace(graph, name="other")
    offered(npu, other).bind(made)()
    assert is_right(made, W)
    ends = error in (NoContext, DeviceLost)
    assert npu.usage.counts.launches == launched + (not ends)
    assert len(npu.usage.fallbacks) == 1 + ends


def test_buffers_of_what_fell_back_are_given_up() -> None:
    npu = backend(device=SoftwareDevice(failing("launch", 0, LaunchFailed("no"))))
    graph = product_graph(3, 40, 150)
    offer = offered(npu, graph)
    step = offer.bind(bound_product(graph, X, load(offer, "w", W)))
    step()
    assert step._launch is None  # type: ignore[attr-defined]


def test_a_weight_without_memory_leaves_the_op_to_others(caplog: pytest.LogCaptureFixture) -> None:
    npu = backend(device=SoftwareDevice(failing("buffer", 0, BufferRefused("full"))))
    graph = product_graph(3, 40, 150)
    offer = offered(npu, graph)
    with pytest.raises(BufferRefused, match="full") as raised:
        load(offer, "w", W)
    # Whoever binds it in spite of that is told.
    made = bound_product(graph, X, W)

    def bind() -> Step:
        return offer.bind(made)

    with pytest.raises(KernelError, match=f"^{SMALL}: w is not in its memory$"):
        bind()
    with caplog.at_level(logging.INFO, "whisper_npu"):
        npu.failed(graph, offer, raised.value)
        npu.failed(graph, offer, raised.value)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "phase: product on NumPy from now on: full"
    assert len(npu.usage.fallbacks) == 1
    assert npu.offer(graph, 0) == Refusal("npu", "fell back to NumPy: full")
    # In another phase it has not failed, but the weight is in host memory by now: it is not asked
    # for again, and that is recorded too.
    again = offered(npu, replace(graph, name="other"))
    with pytest.raises(BufferRefused, match="full"):
        load(again, "w", W)
    packing = again.forms["w"][0].packing
    assert packing is not None
    assert packing.take("another weight", W.shape).shape == packing.shape(W.shape)


@pytest.mark.parametrize("error", [NoContext, DeviceLost])
def test_a_kernel_that_does_not_open_is_tried_once(
    error: type[DeviceError], caplog: pytest.LogCaptureFixture
) -> None:
    """Though all weights are asked for before any op is said to have failed."""
    tried: list[str] = []

    def fault(action: str, kernel: str, count: int) -> DeviceError | None:
        tried.append(action)
        return error("taken")

    npu = backend(device=SoftwareDevice(fault))
    graphs = [product_graph(3, 40, 150, f"w{i}", name=f"phase{i}") for i in range(3)]
    offers = [offered(npu, graph) for graph in graphs]
    errors = []
    for i, offer in enumerate(offers):
        with pytest.raises(error) as raised:
            load(offer, f"w{i}", W)
        errors.append(raised.value)
    assert tried == ["open"]
    with caplog.at_level(logging.INFO, "whisper_npu"):
        for graph, offer, each in zip(graphs, offers, errors, strict=True):
            npu.failed(graph, offer, each)
    assert [r.levelno for r in caplog.records] == [logging.WARNING, logging.INFO, logging.INFO]
    assert {e.reason for e in npu.usage.fallbacks} == {error.reason}


# Closing


def test_what_is_closed_computes_by_numpy(caplog: pytest.LogCaptureFixture) -> None:
    """From memory that is there for as long as the steps are."""
    closed: list[str] = []

    class Closing(SoftwareDevice):
        def open(self, entry):  # type: ignore[no-untyped-def]
            kernel = super().open(entry)
            kernel.close = lambda: closed.append(entry.contract.name)  # type: ignore[method-assign]
            return kernel

    npu = backend({LARGE: FAST, SMALL: FAST}, device=Closing())
    npu.open([SMALL, LARGE])
    graph = product_graph(3, 40, 150)
    offer = npu.offer_of(SMALL, graph, 0)
    assert isinstance(offer, Offer)
    made = bound_product(graph, X, load(offer, "w", W))
    step = offer.bind(made)
    npu.close()
    npu.close()
    gc.collect()
    assert closed == [SMALL, LARGE]
    again = npu.offer_of(SMALL, graph, 0)
    assert isinstance(again, Offer)
    # What is bound later falls back with an event.
    with pytest.raises(DeviceLost, match="the NPU was given back"):
        load(again, "w", W)
    step()
    assert is_right(made, W)
    assert npu.usage.counts.launches == 0
    assert [e.detail for e in npu.usage.fallbacks] == ["the NPU was given back"]
    for use in (lambda: load(offer, "w", W), lambda: offer.bind(made), lambda: npu.open([SMALL])):
        with pytest.raises(DeviceLost, match="the NPU was given back"):
            use()


def test_what_is_dropped_is_given_back_at_once() -> None:
    """The collector is not needed: a weight may be larger than all that is free."""
    gc.collect()
    gc.disable()
    try:
        npu = backend({LARGE: FAST, SMALL: FAST})
        graph = product_graph(3, 40, 150)
        offer = offered(npu, graph)
        packed = load(offer, "w", W)
        step = offer.bind(bound_product(graph, X, packed))
        step()
        known = weakref.ref(npu), weakref.ref(packed.base), weakref.ref(step)
        del npu, offer, packed, step
        assert [reference() for reference in known] == [None] * 3
    finally:
        gc.enable()


def test_a_device_that_was_lost_was_not_given_back() -> None:
    npu = backend(device=SoftwareDevice(failing("open", 0, DeviceLost("gone"))))
    for _ in range(2):
        with pytest.raises(DeviceLost, match="gone"):
            npu.open([SMALL])
        npu.close()
