"""Our device on a stand-in for pyxrt, with kernels in a real xclbin."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.npu.gemm_registry import entry, write_registry
from tests.unit.npu.xrt.fake_pyxrt import FakePyxrt
from whisper_npu.backends.npu.device import DeviceIdentity
from whisper_npu.backends.npu.registry import KernelEntry
from whisper_npu.backends.npu.xrt import lifetime
from whisper_npu.backends.npu.xrt.detect import Npu
from whisper_npu.backends.npu.xrt.device import XrtDevice

XCLBIN = Path(__file__).parents[3] / "data" / "npu" / "one_column.xclbin"

OpenDevice = Callable[..., XrtDevice]
Entries = Callable[..., list[KernelEntry]]


@pytest.fixture
def pyxrt(monkeypatch: pytest.MonkeyPatch) -> FakePyxrt:
    # What is kept for ever would stay with the tests that follow.
    monkeypatch.setattr("whisper_npu.backends.npu.xrt.launch.keep_for_ever", KEPT.append)
    KEPT.clear()
    return FakePyxrt()


# What a test has had kept for ever.
KEPT: list[Any] = []


@pytest.fixture
def open_device(pyxrt: FakePyxrt) -> OpenDevice:
    def opened(
        device: str = "1502", launch_timeout_s: float = 5.0, context_timeout_s: float = 5.0
    ) -> XrtDevice:
        npu = Npu("0000:c5:00.1", f"1022:{device}", "00", "amdxdna", "/dev/accel/accel0", "", "")
        identity = DeviceIdentity("fake", f"1022:{device} rev 00", "1", "amdxdna 1", "2.25.0")
        handle = lifetime.track(pyxrt.device(0))
        return XrtDevice(pyxrt, handle, npu, identity, launch_timeout_s, context_timeout_s)

    return opened


@pytest.fixture
def entries(tmp_path: Path) -> Entries:
    """Entries gemm_0, gemm_1, ... with members replaced."""

    def made(n: int = 1, **changes: Any) -> list[KernelEntry]:
        copy = Path(shutil.copy(XCLBIN, tmp_path / "gemm.xclbin"))
        return list(
            write_registry(tmp_path, *(entry(f"gemm_{i}", copy, **changes) for i in range(n)))
        )

    return made
