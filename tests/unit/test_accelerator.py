"""Ops on a device: the same numbers as NumPy whatever goes wrong, and a true account of it."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from tests.support.npu.faults import WAYS, Fault, Way
from tests.unit.accelerated import (
    FEATURES,
    LARGE,
    OPS,
    PRODUCTS,
    RUNS,
    SMALL,
    TIMELINE,
    Alternating,
    accelerated,
    all_but,
    directed,
    everywhere,
    fallbacks,
    numpy_model,
    ran,
    run_windows,
    same,
)
from whisper_npu.backends.npu.device import DeviceError, DeviceLost, LaunchFailed, NoContext
from whisper_npu.backends.npu.registry import KernelEntry
from whisper_npu.backends.npu.software import SoftwareDevice
from whisper_npu.model.graph import Graph, Op
from whisper_npu.runtime.usage import Usage


@pytest.fixture(scope="module")
def expected() -> list[np.ndarray]:
    return run_windows(numpy_model())


@pytest.mark.parametrize("entry", [LARGE, SMALL], ids=["64", "16"])
def test_all_products_on_a_kernel(expected: list[np.ndarray], entry: KernelEntry) -> None:
    device = SoftwareDevice()
    model = accelerated(everywhere(entry), device)
    assert same(run_windows(model), expected)
    usage = model.machine.usage
    assert usage.counts.launches == device.traffic.launches == len(TIMELINE)
    assert ran(model) == {entry.contract.name: len(TIMELINE)}
    assert (usage.fallbacks, usage.counts.checks) == ([], 0)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("entries", [(LARGE,), (SMALL,), (LARGE, SMALL)])
def test_half_of_the_products_on_kernels(
    expected: list[np.ndarray], entries: tuple[KernelEntry, ...], first: int
) -> None:
    choose = Alternating(entries, first)
    model = accelerated(choose)
    assert same(run_windows(model), expected)
    assert choose.asked == len(OPS)
    usage = model.machine.usage
    assert ran(model).keys() == {"numpy", *(e.contract.name for e in entries)}
    assert ran(model).total() == len(TIMELINE)
    assert abs(2 * usage.counts.launches - len(TIMELINE)) <= len(RUNS)
    assert usage.fallbacks == []


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_each_product_alone_fails(expected: list[np.ndarray], way: Way) -> None:
    for phase, op in OPS:
        fault = Fault(SMALL.contract.name, way)
        model = accelerated(all_but(phase, op), SoftwareDevice(fault))
        assert same(run_windows(model), expected), (phase, op)
        assert fault.seen >= way.nth, (phase, op)
        failed = {(phase, op)}
        if way.error is DeviceLost:
            # Kernels are opened for the weights, before anything runs.
            at = [i for i, ran in enumerate(TIMELINE) if ran == (phase, op)]
            failed = set(TIMELINE[at[way.nth - 1] :] if way.action == "launch" else OPS)
        named = [
            (*name, (SMALL if name == (phase, op) else LARGE).contract.name, way.error.reason)
            for name in failed
        ]
        assert sorted(fallbacks(model)) == sorted(named)
        assert (fault.after > 0) == (way.error is not DeviceLost)


def test_a_fallback_is_logged_with_its_detail(caplog: pytest.LogCaptureFixture) -> None:
    model = accelerated(
        all_but("step", "fixed_logits"),
        SoftwareDevice(Fault(SMALL.contract.name, Way("launch", 2, LaunchFailed))),
    )
    with caplog.at_level(logging.WARNING, "whisper_npu"):
        run_windows(model)
    (record,) = caplog.records
    detail = f"{SMALL.contract.name}: launch failed"
    assert record.getMessage() == f"step: fixed_logits on NumPy from now on: {detail}"
    assert model.machine.usage.fallbacks[0].detail == detail


@pytest.mark.parametrize(
    "way", [Way("launch", 1, LaunchFailed), Way("open", 1, NoContext)], ids=str
)
def test_what_failed_is_not_tried_again(way: Way) -> None:
    """Not in the plan of another prompt either."""
    fault = Fault(SMALL.contract.name, way)
    model = accelerated(all_but("prefill", "fixed_logits"), SoftwareDevice(fault))
    session = model.decoder(model.encode(FEATURES[:1]))
    reference = numpy_model()
    unfailed = reference.decoder(reference.encode(FEATURES[:1]))
    for prompt in ([1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3]):
        logits = session.prefill([prompt], [1])
        assert np.array_equal(logits, unfailed.prefill([prompt], [1]))
    assert fault.seen == 1
    assert len(fallbacks(model)) == 1


@pytest.mark.parametrize("action", ["open", "launch"])
def test_a_kernel_without_a_context_is_waited_for_once(
    expected: list[np.ndarray], caplog: pytest.LogCaptureFixture, action: str
) -> None:
    """Each try takes as long as others may hold the device: none of them is for every op."""
    tried: list[str] = []

    def fault(what: str, kernel: str, count: int) -> DeviceError | None:
        if (what, kernel) != (action, SMALL.contract.name):
            return None
        tried.append(kernel)
        return NoContext("taken")

    def choose(graph: Graph, op: Op) -> KernelEntry:
        return SMALL if graph.name == "step" else LARGE

    model = accelerated(choose, SoftwareDevice(fault))
    with caplog.at_level(logging.INFO, "whisper_npu"):
        assert same(run_windows(model), expected)
    assert len(tried) == 1
    name = SMALL.contract.name
    assert fallbacks(model) == [("step", op, name, "no context") for op in PRODUCTS["step"]]
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == 1
    assert len(caplog.records) == len(PRODUCTS["step"])


def test_kernels_are_opened_when_asked_to() -> None:
    asked: list[tuple[str, str]] = []

    def fault(action: str, kernel: str, count: int) -> DeviceError | None:
        asked.append((action, kernel))
        return NoContext("taken") if kernel == LARGE.contract.name else None

    npu = directed(SoftwareDevice(fault), everywhere(SMALL), Usage())
    small, large = SMALL.contract.name, LARGE.contract.name
    npu.open([small])
    npu.open([small])
    with pytest.raises(NoContext, match="taken"):
        npu.open([small, large])
    assert asked == [("open", SMALL.contract.name), ("open", LARGE.contract.name)]


def test_after_the_device_is_lost_nothing_is_asked_of_it() -> None:
    asked: list[tuple[str, str]] = []

    def fault(action: str, kernel: str, count: int) -> DeviceError | None:
        asked.append((action, kernel))
        return DeviceLost("gone") if action == "launch" else None

    def choose(graph: Graph, op: Op) -> KernelEntry:
        # Programs and buffers are made later than by the one that found the device gone.
        return LARGE if graph.name == "encoder" else SMALL

    model = accelerated(choose, SoftwareDevice(fault))
    loaded = len(asked)
    assert {action for action, _ in asked} == {"open", "buffer"}
    run_windows(model)
    assert asked[-1] == ("launch", LARGE.contract.name)
    assert {kernel for _, kernel in asked[loaded:]} == {LARGE.contract.name}
    assert {f[:2] for f in fallbacks(model)} == set(OPS)


def test_a_program_defect_is_no_fallback() -> None:
    class Defect(Exception):
        pass

    def fault(action: str, kernel: str, count: int) -> DeviceError | None:
        if action == "launch":
            raise Defect
        return None

    with pytest.raises(Defect):
        run_windows(accelerated(everywhere(LARGE), SoftwareDevice(fault)))
