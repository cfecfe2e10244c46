"""Families: one class is all that a kernel for another op takes."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import whisper_npu
from tests.support.npu.entries import matmul_entry
from tests.support.npu.gemm_kernels import evidence_of, gemm_entry
from tests.unit.npu.products import product_graph
from tests.unit.npu.toy_family import NBYTES, TILE, GeluRows, toy_entry
from whisper_npu.backends.npu.backend import NpuBackend
from whisper_npu.backends.npu.device import Buffer, DeviceError, LaunchFailed, NoContext, Program
from whisper_npu.backends.npu.families import FAMILIES, family_of
from whisper_npu.backends.npu.families.fixed import FixedShape
from whisper_npu.backends.npu.families.gemm import GemmInt8
from whisper_npu.backends.npu.manager import UNVERIFIED, VERIFIED, KernelStatus
from whisper_npu.backends.npu.registry import KernelEntry, load_registry
from whisper_npu.backends.npu.software import SoftwareDevice, SoftwareKernel
from whisper_npu.backends.npu.verdicts import judge
from whisper_npu.backends.npu.verify_kernel import verify
from whisper_npu.errors import KernelError
from whisper_npu.model.graph import Graph, Op, Tensor
from whisper_npu.ops.activation import gelu
from whisper_npu.runtime.backend import Bound, Offer, Refusal, Step, function_of
from whisper_npu.runtime.usage import Usage


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "gelu_rows", GeluRows)


def graph(rows: int = 5, phase: str = "encoder") -> Graph:
    tensors = (
        Tensor("x", (rows, 32), "float32", "input"),
        Tensor("y", (rows, 32), "float32", "output"),
    )
    return Graph(phase, tensors, (Op("0.gelu", "gelu", ("x",), ("y",)),))


def backend(device: SoftwareDevice | None = None, check_rate: float = 0.0) -> NpuBackend:
    device, entry = device or SoftwareDevice(), toy_entry()
    evidence = evidence_of(device.identity, entry)
    status = KernelStatus(entry, {}, VERIFIED, evidence)
    rates = {"toy_gelu": evidence.rates()}
    return NpuBackend(device, [status], rates, Usage(), check_rate)


def offered(npu: NpuBackend, rows: int = 5, phase: str = "encoder") -> Offer:
    offer = npu.offer(graph(rows, phase), 0)
    assert isinstance(offer, Offer)
    return offer


def bound(rows: int = 5) -> Bound:
    x = np.random.default_rng(rows).standard_normal((rows, 32), np.float32)
    return Bound(graph(rows).ops, {"x": x, "y": np.full_like(x, np.nan)})


def is_right(made: Bound) -> bool:
    right = np.array_equal(made.outputs[0], gelu(made.inputs[0]))
    made.outputs[0][:] = np.nan
    return right


def test_every_kernel_has_a_family() -> None:
    for entry in load_registry(inventory=True):
        family = family_of(entry)
        assert family.contract is entry.contract
        assert isinstance(family, FixedShape) != isinstance(family, GemmInt8)
        # Only kernels whose instructions are made for a shape have a sample of them.
        assert (family.sample() is None) == (family.kinds == ())
    assert type(family_of(matmul_entry(family="new"))) is FixedShape


def test_no_other_file_knows_a_family() -> None:
    package = Path(whisper_npu.__file__).parent
    own = package / "backends/npu/families"
    for file in package.rglob("*.py"):
        if own not in file.parents:
            text = file.read_text(encoding="utf-8")
            assert not re.search(r"gemm_int8|GEMM_FAMILY|contract\.family ==", text), file


def test_a_kernel_without_a_file_of_instructions_needs_a_family_that_makes_them() -> None:
    with pytest.raises(
        KernelError, match=r"^kernel mine: no instructions for shape \(\): .*matmul"
    ):
        family_of(matmul_entry()).instructions(())
    with pytest.raises(KernelError, match=r"shape \(1,\): they are made for \(m, k, n\)$"):
        family_of(gemm_entry(64)).instructions((1,))
    with pytest.raises(KernelError, match=r"^kernel gemm_int8_64x64x64: m = 1 is not a multiple"):
        family_of(gemm_entry(64)).instructions((1, 64, 64))


def test_a_kernel_of_the_new_family_is_verified() -> None:
    found = verify(SoftwareDevice(), toy_entry(), [gemm_entry(16)])
    assert (found.passed, found.cases, found.worst_error) == (True, 2, 0)
    assert found.launch_seconds is not None
    assert found.bytes_per_second is not None
    assert found.rate is None

    def corrupt(count: int, outputs: Sequence[np.ndarray]) -> None:
        outputs[0].view(np.float32)[7] += 1

    assert not verify(SoftwareDevice(corrupt=corrupt), toy_entry()).passed
    # It is verified against the op itself: no model has to be measured.
    assert judge(toy_entry(), None).usable


def test_it_is_offered_bound_launched_and_checked() -> None:
    device = SoftwareDevice()
    npu = backend(device, check_rate=1.0)
    offer = offered(npu)
    assert (offer.backend, offer.kernel, offer.function) == ("npu", "toy_gelu", "toy_gelu")
    assert (offer.launches, offer.bytes_in, offer.bytes_out) == (1, NBYTES, NBYTES)
    assert (offer.resident_bytes, offer.weight, offer.forms) == (0, None, {})
    assert (offer.seconds, offer.note) == (1e-4, "verified")
    made = bound()
    step = offer.bind(made)
    for count in (1, 2):
        step()
        assert is_right(made)
        assert (
            device.traffic.launches == npu.usage.counts.launches == npu.usage.counts.checks == count
        )
        assert npu.usage.counts.ops == {}
    assert function_of(step) == "toy_gelu"
    assert npu.usage.counts.bytes_to_device == npu.usage.counts.bytes_from_device == 2 * NBYTES
    assert npu.usage.resident_bytes == 0
    assert npu.kinds >= {"gelu", "product_int8"}


def test_what_it_does_not_take_is_refused() -> None:
    npu = backend()
    assert offered(npu, TILE[0]).kernel == "toy_gelu"
    refused = npu.offer(graph(TILE[0] + 1), 0)
    assert refused == Refusal("npu", "toy_gelu does not take it")


def test_a_usable_kernel_of_another_kind_is_no_reason() -> None:
    """Products are refused for what is known of the kernels for products."""
    kernels = [KernelStatus(toy_entry(), {}, VERIFIED, None)]
    kernels.append(KernelStatus(gemm_entry(64), {}, UNVERIFIED, None))
    rates = evidence_of(SoftwareDevice().identity, toy_entry()).rates()
    npu = NpuBackend(SoftwareDevice(), kernels, {"toy_gelu": rates}, Usage())
    refused = Refusal("npu", "gemm_int8_64x64x64 is unverified")
    assert npu.offer(product_graph(1, 2, 3), 0) == refused
    assert isinstance(npu.offer(graph(), 0), Offer)


def test_a_launch_that_fails_is_computed_by_numpy(caplog: pytest.LogCaptureFixture) -> None:
    def fault(action: str, kernel: str, count: int) -> DeviceError | None:
        return LaunchFailed("no") if (action, count) == ("launch", 1) else None

    device = SoftwareDevice(fault)
    npu = backend(device)
    made = bound()
    step = offered(npu).bind(made)
    with caplog.at_level(logging.WARNING, "whisper_npu"):
        for _ in range(3):
            step()
            assert is_right(made)
    assert function_of(step) == "ops.activation.gelu"
    # Against what a plan counts, which takes it to have run as it was placed.
    npu.usage.ran("encoder", {}, 0.0)
    assert npu.usage.counts.ops == {("gelu", "toy_gelu"): -2, ("gelu", "numpy"): 2}
    assert [r.getMessage() for r in caplog.records] == ["encoder: 0.gelu on NumPy from now on: no"]
    # It is for others from now on; in another phase it has not failed.
    assert npu.offer(graph(4), 0) == Refusal("npu", "fell back to NumPy: no")
    assert isinstance(npu.offer(graph(5, "step"), 0), Offer)


def test_a_kernel_that_lies_is_found() -> None:
    def corrupt(count: int, outputs: Sequence[np.ndarray]) -> None:
        outputs[0].view(np.float32)[3] += 1

    npu = backend(SoftwareDevice(corrupt=corrupt), check_rate=1.0)
    made = bound()
    step = offered(npu).bind(made)
    step()
    assert is_right(made)
    (event,) = npu.usage.fallbacks
    assert event.detail == (
        "toy_gelu: 1 of 160 values of 0.gelu were wrong; the kernel is not used any more"
    )
    npu.usage.ran("encoder", {}, 0.0)
    assert npu.usage.counts.ops == {("gelu", "toy_gelu"): -1, ("gelu", "numpy"): 1}


def test_an_output_that_is_not_written_is_not_used() -> None:
    """The second launch completes and does nothing: the buffer has the results of the first."""

    class Idle(SoftwareDevice):
        def open(self, entry: KernelEntry) -> SoftwareKernel:
            kernel = super().open(entry)
            launch = kernel.launch

            def once(program: Program, buffers: Sequence[Buffer]) -> None:
                if self.traffic.launches == 0:
                    launch(program, buffers)

            kernel.launch = once  # type: ignore[method-assign]
            return kernel

    npu = backend(Idle())
    made = bound()
    step = offered(npu).bind(made)
    step()
    assert function_of(step) == "toy_gelu"
    made.inputs[0][:] += 1
    step()
    assert is_right(made)
    (event,) = npu.usage.fallbacks
    assert (event.reason, event.detail) == ("wrong result", "toy_gelu: did not write an output")


def test_a_kernel_that_does_not_open_leaves_the_op_to_others() -> None:
    """There is nothing of it in the kernel's memory that others could not read."""

    def fault(action: str, kernel: str, count: int) -> DeviceError | None:
        return NoContext("taken") if action == "open" else None

    npu = backend(SoftwareDevice(fault))
    offer = offered(npu)

    def bind() -> Step:
        return offer.bind(bound())

    with pytest.raises(NoContext, match="taken") as raised:
        bind()
    npu.failed(graph(), offer, raised.value)
    assert npu.offer(graph(), 0) == Refusal("npu", "fell back to NumPy: taken")
    assert [(e.op, e.reason) for e in npu.usage.fallbacks] == [("0.gelu", "no context")]
