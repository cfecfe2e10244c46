from __future__ import annotations

import pytest

from whisper_npu.backends.npu.device import BufferRefused, DeviceLost, LaunchFailed, NoDevice
from whisper_npu.backends.npu.xrt import pyxrt_errors as errors

# As XRT 2.25 words them.
CREATE_CONTEXT = "DRM_IOCTL_AMDXDNA_CREATE_HWCTX IOCTL failed (err=-{}): in words"
CREATE_BO = "DRM_IOCTL_AMDXDNA_CREATE_BO IOCTL failed (err=-{}): in words"


def test_code() -> None:
    assert errors.code(RuntimeError(CREATE_BO.format(28))) == 28
    assert errors.code(RuntimeError("Bad BO type. (err=22): Invalid argument")) == 22
    assert errors.code(RuntimeError("No such device with index '1'")) is None
    assert errors.code(RuntimeError("(err=-)")) is None


@pytest.mark.parametrize("code", [28, 2, 19, 22])
def test_busy(code: int) -> None:
    assert errors.is_busy(RuntimeError(CREATE_CONTEXT.format(code)))
    assert not errors.is_busy(RuntimeError(CREATE_BO.format(code)))


def test_not_busy() -> None:
    for text in (CREATE_CONTEXT.format(12), "No valid DPU kernel found in xclbin (err=22): x"):
        assert not errors.is_busy(RuntimeError(text))


def test_messages_are_one_line() -> None:
    error = RuntimeError("Command failed (ERT_CMD_STATE_TIMEOUT)\n\ntxn_op_idx = 0xFFFFFFFF\n")
    assert errors.text(error) == "Command failed (ERT_CMD_STATE_TIMEOUT) txn_op_idx = 0xFFFFFFFF"
    assert errors.text(IndexError()) == "IndexError"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("No such device with index '0'", "the NPU does not open"),
        ("Open /dev/accel/accel0 failed (err=-13): Permission denied", "no permission"),
        ("mmap(len=67108864) failed (err=-11): Resource temporarily unavailable", "locked memory"),
    ],
)
def test_no_device(text: str, words: str) -> None:
    error = errors.no_device(RuntimeError(text))
    assert isinstance(error, NoDevice)
    assert str(error).startswith(words)
    assert text in str(error)
    assert str(error).endswith("run: whisper-npu doctor")


def test_buffers() -> None:
    for code in (11, 12, 28):
        full = errors.buffer_refused("argument 3 (bo0)", 64, RuntimeError(CREATE_BO.format(code)))
        assert type(full) is BufferRefused
        assert "argument 3 (bo0): no buffer of 64 bytes" in str(full)
        assert "ulimit -l" in str(full)
    other = errors.buffer_refused("it", 64, RuntimeError("Bad BO type. (err=22): x"))
    assert type(other) is BufferRefused
    assert "ulimit" not in str(other)
    gone = errors.buffer_refused("it", 64, RuntimeError(CREATE_BO.format(19)))
    assert type(gone) is DeviceLost


def test_launches() -> None:
    text = "DRM_IOCTL_AMDXDNA_EXEC_CMD IOCTL failed (err=-{}): in words"
    assert type(errors.not_started("k", RuntimeError(text.format(2)))) is LaunchFailed
    assert type(errors.not_started("k", RuntimeError(text.format(19)))) is DeviceLost


def test_who_has_the_contexts() -> None:
    error = RuntimeError(CREATE_CONTEXT.format(28))
    assert "taken by a (process 1), b (process 2);" in str(
        errors.no_context("k", error, 1, ["a (process 1)", "b (process 2)"])
    )
    assert "taken by other programs;" in str(errors.no_context("k", error, 1, []))
