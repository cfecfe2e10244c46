"""Verification finds what kernels do wrong, and says what it was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from tests.support.npu.entries import matmul_entry
from tests.support.npu.gemm_kernels import gemm_entry
from whisper_npu.backends.npu import verify_kernel as module
from whisper_npu.backends.npu.adversarial import INTEGERS
from whisper_npu.backends.npu.device import (
    BufferRefused,
    DeviceError,
    DeviceLost,
    LaunchFailed,
    LaunchTimedOut,
    NoContext,
)
from whisper_npu.backends.npu.kernel_evidence import evidence_key
from whisper_npu.backends.npu.launch_case import REPEATS
from whisper_npu.backends.npu.registry import KernelEntry
from whisper_npu.backends.npu.software import SoftwareDevice, SoftwareKernel
from whisper_npu.backends.npu.verify_kernel import CANARY, verify
from whisper_npu.errors import KernelError

LARGE, SMALL = gemm_entry(64), gemm_entry(16)
MATMUL = matmul_entry()
# With 256 outputs each, to have compared as many as have to be.
LAUNCHES = 400
KERNELS = {"64": LARGE, "16": SMALL, "matmul": MATMUL}


@pytest.mark.parametrize("entry", [SMALL, MATMUL], ids=["gemm", "matmul"])
def test_a_kernel_that_is_right(entry: KernelEntry) -> None:
    device = SoftwareDevice()
    found = verify(device, entry)
    assert found.passed
    assert (found.key, found.kernel) == (evidence_key(device.identity, entry), entry.contract.name)
    assert found.cases >= len(INTEGERS)
    first = found.cases - module.PRODUCTION
    assert found.launches == REPEATS * first + module.PRODUCTION
    assert found.worst_error == 0
    assert found.launch_seconds is not None
    assert found.launch_seconds > 0
    assert found.bytes_per_second is not None
    assert found.bytes_per_second > 0
    assert json.loads(json.dumps(asdict(found), allow_nan=False))["failure"] is None


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("entry", KERNELS.values(), ids=KERNELS)
def test_a_kernel_that_is_wrong_in_1_of_10_000_outputs(entry: KernelEntry, seed: int) -> None:
    dtype = entry.contract.outputs[0].dtype

    def corrupt(count: int, outputs: Sequence[np.ndarray]) -> None:
        (numbers,) = (output.view(dtype) for output in outputs)
        numbers[rng.random(numbers.size) < 1e-4] ^= 1

    rng = np.random.default_rng(seed)
    found = verify(SoftwareDevice(corrupt=corrupt), entry)
    assert not found.passed
    assert found.worst_error == 1
    assert found.failure is not None
    assert found.failure.endswith("outputs differ by up to 1")


@pytest.mark.parametrize("entry", KERNELS.values(), ids=KERNELS)
def test_outputs_that_are_never_written(entry: KernelEntry) -> None:
    class Idle(SoftwareDevice):
        def open(self, entry: KernelEntry) -> SoftwareKernel:
            kernel = super().open(entry)
            kernel.launch = lambda program, buffers: None  # type: ignore[method-assign]
            return kernel

    found = verify(Idle(), entry)
    assert found.failure is not None
    assert found.failure.endswith("an output was not written")
    assert found.launches == 1
    json.dumps(asdict(found), allow_nan=False)


def test_zeros_are_not_taken_for_the_result() -> None:
    def corrupt(count: int, outputs: Sequence[np.ndarray]) -> None:
        outputs[0][:] = 0

    assert not verify(SoftwareDevice(corrupt=corrupt), SMALL).passed


def test_a_tile_that_is_not_written() -> None:
    """Of all launches but those of one tile the last tile keeps what was there before."""

    def corrupt(count: int, outputs: Sequence[np.ndarray]) -> None:
        if outputs[0].size > 4 * 16 * 64:
            outputs[0].view(np.int32)[-64:] = np.array([CANARY] * 4, np.uint8).view(np.int32)

    found = verify(SoftwareDevice(corrupt=corrupt), SMALL)
    assert found.failure is not None
    assert "outputs differ" in found.failure


def test_a_kernel_that_is_wrong_the_second_time() -> None:
    """It passes every first launch of a case, as one does that leaves state behind."""

    def corrupt(count: int, outputs: Sequence[np.ndarray]) -> None:
        if count % REPEATS == 1:
            outputs[0][0] ^= 1

    found = verify(SoftwareDevice(corrupt=corrupt), MATMUL)
    assert found.launches == 2
    assert found.failure is not None
    assert found.failure.startswith("random ")


class Disturbed(SoftwareDevice):
    """A kernel is wrong when another one was launched before it."""

    def __init__(self, victim: str) -> None:
        super().__init__()
        self.victim, self.last, self.launched = victim, victim, [""]

    def open(self, entry: KernelEntry) -> SoftwareKernel:
        kernel = super().open(entry)
        launch, name = kernel.launch, entry.contract.name

        def watched(program: Any, buffers: Any) -> None:
            launch(program, buffers)
            if name == self.victim != self.last:
                buffers[-1].device[0] ^= 1
            self.last = name

        kernel.launch = watched  # type: ignore[method-assign]
        return kernel


def test_a_kernel_that_others_disturb() -> None:
    name = SMALL.contract.name
    assert verify(Disturbed(name), SMALL).passed
    assert not verify(Disturbed(name), SMALL, [LARGE]).passed


def test_a_kernel_that_others_do_not_disturb() -> None:
    device = SoftwareDevice()
    found = verify(device, MATMUL, [SMALL])
    assert found.passed
    # Every one of the first cases is followed by one launch of the other kernel, and some of the
    # launches as in use; the rest is timing.
    others = found.cases - module.PRODUCTION + module.PRODUCTION // module._DISTRACTED
    assert device.traffic.launches == found.launches + others + module._TIMED


def test_others_that_cannot_be_opened_are_left_out() -> None:
    def fault(action: str, kernel: str, count: int) -> DeviceError | None:
        if (action, kernel) == ("open", LARGE.contract.name):
            return NoContext("all contexts are taken")
        return None

    found = verify(SoftwareDevice(fault), MATMUL, [LARGE])
    assert found.passed


@pytest.mark.parametrize("lies", [True, False])
def test_others_that_fail_are_not_held_against_it(lies: bool) -> None:
    def fault(action: str, kernel: str, count: int) -> DeviceError | None:
        if not lies and (action, kernel) == ("launch", SMALL.contract.name):
            return LaunchFailed("no")
        return None

    def corrupt(count: int, outputs: Sequence[np.ndarray]) -> None:
        if outputs[0].nbytes == 4 * 16 * 64:
            outputs[0][:] = CANARY

    device = SoftwareDevice(fault, corrupt if lies else None)
    assert verify(device, MATMUL, [SMALL]).passed


@pytest.mark.parametrize(
    ("action", "error"),
    [
        ("open", NoContext),
        ("open", DeviceLost),
        ("buffer", BufferRefused),
        ("program", BufferRefused),
        ("launch", LaunchFailed),
        ("launch", LaunchTimedOut),
        ("launch", DeviceLost),
    ],
)
def test_a_device_that_fails(action: str, error: type[DeviceError]) -> None:
    def fault(what: str, kernel: str, count: int) -> DeviceError | None:
        nth = 0 if what in ("open", "program") else 5
        return error(f"{what} failed") if (what, count) == (action, nth) else None

    found = verify(SoftwareDevice(fault), MATMUL)
    assert found.failure == f"{action} failed"
    assert (found.launch_seconds, found.rate, found.bytes_per_second) == (None, None, None)


def test_a_device_that_fails_while_timing() -> None:
    def fault(what: str, kernel: str, count: int) -> DeviceError | None:
        last = LAUNCHES + module._TIMED - 1
        return LaunchFailed("late") if (what, count) == ("launch", last) else None

    assert verify(SoftwareDevice(fault), MATMUL).failure == "late"


def test_a_kernel_whose_files_are_missing_is_not_evidence() -> None:
    class Bare(SoftwareDevice):
        def open(self, entry: KernelEntry) -> SoftwareKernel:
            raise KernelError("mine.xclbin is missing")

    with pytest.raises(KernelError, match="is missing"):
        verify(Bare(), MATMUL)

    # Another kernel's files do not matter.
    class Half(SoftwareDevice):
        def open(self, entry: KernelEntry) -> SoftwareKernel:
            if entry is LARGE:
                raise KernelError("missing")
            return super().open(entry)

    assert verify(Half(), MATMUL, [LARGE]).passed


def test_a_kernel_without_a_model_cannot_be_tried() -> None:
    entry = matmul_entry(model=None)
    with pytest.raises(KernelError):
        verify(SoftwareDevice(), entry)


class Closing(SoftwareDevice):
    def __init__(self, **hooks: Any) -> None:
        super().__init__(**hooks)
        self.open_kernels: list[str] = []

    def open(self, entry: KernelEntry) -> SoftwareKernel:
        kernel = super().open(entry)
        self.open_kernels.append(entry.contract.name)
        kernel.close = lambda: self.open_kernels.remove(entry.contract.name)  # type: ignore[method-assign]
        return kernel


@pytest.mark.parametrize("fails", [False, True])
def test_contexts_are_given_back(fails: bool) -> None:
    def corrupt(count: int, outputs: Sequence[np.ndarray]) -> None:
        outputs[0][0] ^= fails

    device = Closing(corrupt=corrupt)
    assert verify(device, MATMUL, [SMALL]).passed != fails
    assert device.open_kernels == []
