"""The software device: memory of its own, faults, wrong results, and its own account of traffic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tests.support.npu.entries import matmul_entry
from tests.support.npu.gemm_kernels import gemm_entry
from whisper_npu.backends.npu.device import (
    BufferRefused,
    DeviceError,
    DeviceIdentity,
    DeviceLost,
    KernelLied,
    LaunchFailed,
    LaunchTimedOut,
    NoContext,
    NoDevice,
)
from whisper_npu.backends.npu.kernel_models import run_model
from whisper_npu.backends.npu.software import SoftwareDevice, SoftwareKernel, Traffic
from whisper_npu.errors import KernelError

MATMUL = matmul_entry()


def matmul(device: SoftwareDevice) -> tuple[SoftwareKernel, list]:
    kernel = device.open(MATMUL)
    buffers = [kernel.buffer(3, 512), kernel.buffer(4, 256)]
    buffers[0].array[:] = np.random.default_rng(0).integers(0, 256, 512, np.uint8)
    buffers[0].to_device()
    return kernel, buffers


def test_a_kernel_of_one_shape_is_its_model() -> None:
    kernel, (rows, out) = matmul(SoftwareDevice())
    kernel.launch(kernel.program(()), [rows, out])
    assert not out.array.any()
    out.from_device()
    (expected,) = run_model(MATMUL, rows.array.view(np.int8))
    assert np.array_equal(out.array.view(np.int8), expected.reshape(-1))
    assert np.unique(out.array).size > 10


def test_what_was_never_written_does_not_look_like_zero() -> None:
    kernel = SoftwareDevice().open(MATMUL)
    out = kernel.buffer(4, 256)
    out.from_device()
    assert (out.array == 0xEE).all()


def test_traffic_is_counted() -> None:
    device = SoftwareDevice()
    kernel, (rows, out) = matmul(device)
    program = kernel.program(())
    for _ in range(3):
        kernel.launch(program, [rows, out])
    out.from_device()
    assert device.traffic == Traffic(launches=3, to_device=512, from_device=256)


def test_identity() -> None:
    identity = SoftwareDevice().identity
    assert isinstance(identity, DeviceIdentity)
    assert identity == SoftwareDevice().identity
    assert identity.name == "software"


@pytest.mark.parametrize("action", ["open", "buffer", "program", "launch"])
@pytest.mark.parametrize(
    "error", [LaunchFailed, LaunchTimedOut, DeviceLost, NoContext, BufferRefused]
)
def test_faults_are_raised_where_they_are_injected(action: str, error: type[DeviceError]) -> None:
    seen: list[tuple[str, str, int]] = []

    def fault(*what: object) -> DeviceError | None:
        seen.append(what)  # type: ignore[arg-type]
        return error("injected") if what == (action, "mine", seen[-1][2]) else None

    def use() -> None:
        kernel, buffers = matmul(SoftwareDevice(fault))
        kernel.launch(kernel.program(()), buffers)

    with pytest.raises(error, match="injected"):
        use()
    assert [what[0] for what in seen][-1] == action
    assert seen[0] == ("open", "mine", 0)


def test_a_fault_hook_is_told_how_many_came_before() -> None:
    counts: list[tuple[str, int]] = []

    def fault(action: str, kernel: str, count: int) -> None:
        counts.append((action, count))

    kernel, buffers = matmul(SoftwareDevice(fault))
    program = kernel.program(())
    kernel.launch(program, buffers)
    kernel.launch(program, buffers)
    assert counts == [
        ("open", 0),
        ("buffer", 0),
        ("buffer", 1),
        ("program", 0),
        ("launch", 0),
        ("launch", 1),
    ]


def test_outputs_can_be_corrupted() -> None:
    launches: list[int] = []

    def corrupt(count: int, outputs: Sequence[np.ndarray]) -> None:
        launches.append(count)
        outputs[0][7] ^= 1

    exact_kernel, exact = matmul(SoftwareDevice())
    exact_kernel.launch(exact_kernel.program(()), exact)
    exact[1].from_device()
    kernel, buffers = matmul(SoftwareDevice(corrupt=corrupt))
    for _ in range(2):
        kernel.launch(kernel.program(()), buffers)
        buffers[1].from_device()
        assert np.flatnonzero(buffers[1].array != exact[1].array).tolist() == [7]
    assert launches == [0, 1]


def test_what_a_real_device_refuses() -> None:
    kernel = SoftwareDevice().open(gemm_entry(16))
    with pytest.raises(BufferRefused, match="argument 0 takes no buffer"):
        kernel.buffer(0, 8)
    program = kernel.program((16, 64, 64))
    sizes = {3: 16 * 64, 4: 64 * 64, 5: 4 * 16 * 64}
    buffers = [kernel.buffer(argument, nbytes) for argument, nbytes in sizes.items()]
    kernel.launch(program, buffers)
    with pytest.raises(BufferRefused, match="2 buffers of this device"):
        kernel.launch(program, buffers[:2])
    with pytest.raises(KernelError, match="a buffer of 1024 bytes, not 2048"):
        kernel.launch(kernel.program((32, 64, 64)), buffers)


def test_weights_that_were_written_again_are_seen() -> None:
    kernel = SoftwareDevice().open(gemm_entry(16))
    program = kernel.program((16, 64, 64))
    a, b, c = (kernel.buffer(3 + i, nbytes) for i, nbytes in enumerate((1024, 4096, 4096)))
    a.array[:] = 1
    a.to_device()
    for value in (1, 2):
        b.array[:] = value
        b.to_device()
        kernel.launch(program, [a, b, c])
        c.from_device()
        assert (c.array.view(np.int32) == 64 * value).all()


def test_reasons_are_short_and_different() -> None:
    errors = (
        BufferRefused, DeviceLost, KernelLied, LaunchFailed, LaunchTimedOut, NoContext, NoDevice
    )  # fmt: skip
    assert {error.reason for error in errors} == {
        "buffer refused", "device lost", "wrong result", "launch failed", "timeout", "no context",
        "no device",
    }  # fmt: skip
    assert all(error.exit_code == 5 for error in errors)
