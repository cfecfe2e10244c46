from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.npu.gemm_registry import Gemm
from tests.unit.npu.xrt.conftest import Entries, OpenDevice
from tests.unit.npu.xrt.fake_pyxrt import FakePyxrt
from whisper_npu.backends.npu.device import BufferRefused, DeviceError, DeviceLost, NoContext
from whisper_npu.backends.npu.xrt import contexts
from whisper_npu.backends.npu.xrt.detect import holders
from whisper_npu.backends.npu.xrt.device import XrtDevice
from whisper_npu.errors import KernelError

SHAPE = (64, 64, 64)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that passes by sleeping only; ``at``: what happens when."""
    now = SimpleNamespace(seconds=0.0, at={})

    def sleep(seconds: float) -> None:
        now.seconds += seconds
        for when in [when for when in now.at if when <= now.seconds]:
            now.at.pop(when)()

    fake: Any = SimpleNamespace(monotonic=lambda: now.seconds, sleep=sleep)
    monkeypatch.setattr(contexts, "time", fake)
    return now


def test_at_most_six(open_device: OpenDevice, entries: Entries, pyxrt: FakePyxrt) -> None:
    """The least recently used one goes; its kernel gets another with its next launch."""
    device = open_device("17f0")
    npu4 = {"name": "npu4", "pci_id": "1022:17f0", "columns": 1}
    gemms = [Gemm(device.open(e), SHAPE) for e in entries(8, device=npu4)]
    assert len(pyxrt.contexts) == 6
    gemms[2].launch()
    pyxrt.log.clear()
    gemms[0].launch()
    assert pyxrt.count("context") == 1
    for i in (2, 4, 5, 6, 7, 0):
        gemms[i].launch()
    assert pyxrt.count("context") == 1
    gemms[3].launch()
    assert pyxrt.count("context") == 2
    assert len(pyxrt.contexts) == 6


def test_all_end_together_on_phoenix(
    open_device: OpenDevice, entries: Entries, pyxrt: FakePyxrt
) -> None:
    """There the end of one breaks the others."""
    pyxrt.ends_break_others = True
    device = open_device("1502")
    gemms = [Gemm(device.open(e), SHAPE) for e in entries(7)]
    assert len(pyxrt.contexts) == 1
    for _ in range(2):
        for gemm in gemms:
            gemm.launch()
            assert len(pyxrt.contexts) <= 6
    gemms[6].kernel.close()
    assert len(pyxrt.contexts) == 0
    gemms[5].launch()


def test_closed_kernel(open_device: OpenDevice, entries: Entries, pyxrt: FakePyxrt) -> None:
    device = open_device()
    one, two = (Gemm(device.open(e), SHAPE) for e in entries(2))
    one.launch()
    one.kernel.close()
    one.kernel.close()
    with pytest.raises(DeviceError, match=r"^kernel gemm_0: is closed"):
        one.launch()
    # Its buffers go on with another kernel.
    two.buffers = one.buffers
    two.launch()
    assert len(pyxrt.contexts) == 1


@pytest.fixture
def taken(pyxrt: FakePyxrt) -> FakePyxrt:
    """Another process has all contexts."""
    pyxrt.foreign_contexts = pyxrt.context_limit
    return pyxrt


@pytest.mark.parametrize("code", [28, 2, 19, 22])
def test_waits_for_a_context(
    open_device: OpenDevice, entries: Entries, taken: FakePyxrt, clock: SimpleNamespace, code: int
) -> None:
    taken.context_code = code
    clock.at[3.0] = lambda: setattr(taken, "foreign_contexts", 0)
    Gemm(open_device().open(entries()[0]), SHAPE).launch()
    assert 3.0 <= clock.seconds <= 3.5


@pytest.mark.parametrize("code", [28, 2, 19, 22])
def test_no_context(
    open_device: OpenDevice,
    entries: Entries,
    taken: FakePyxrt,
    clock: SimpleNamespace,
    code: int,
) -> None:
    taken.context_code = code
    device = open_device()
    device.contexts._holders = lambda: ["other (process 12)", "third (process 13)"]
    with pytest.raises(NoContext) as caught:
        device.open(entries()[0])
    text = str(caught.value)
    assert text.startswith("kernel gemm_0: ")
    assert "taken by other (process 12), third (process 13); none was free for 5 s" in text
    assert f"(err=-{code})" in text
    assert 5.0 <= clock.seconds < 6


def test_own_contexts_make_room_first(
    open_device: OpenDevice, entries: Entries, pyxrt: FakePyxrt, clock: SimpleNamespace
) -> None:
    """With fewer contexts than we think there are, nobody waits for us."""
    pyxrt.context_limit = 2
    device = open_device("1502")
    gemms = [Gemm(device.open(e), SHAPE) for e in entries(4)]
    for gemm in gemms:
        gemm.launch()
    assert clock.seconds == 0


def test_other_errors_are_not_waited_for(
    open_device: OpenDevice, entries: Entries, pyxrt: FakePyxrt, clock: SimpleNamespace
) -> None:
    device = open_device()
    pyxrt.context_limit, pyxrt.context_code = 0, 12
    with pytest.raises(BufferRefused, match=r"^kernel gemm_0: .*err=-12"):
        device.open(entries()[0])
    pyxrt.context_code = 95
    with pytest.raises(KernelError, match=r"^kernel gemm_0: .*err=-95"):
        device.open(entries()[0])
    pyxrt.context_limit, pyxrt.lost = 6, True
    with pytest.raises(DeviceLost, match=r"^kernel gemm_0: the NPU has gone"):
        device.open(entries()[0])
    assert clock.seconds == 0


def test_who_has_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def process(number: int, name: str, *files: str) -> None:
        folder = tmp_path / "proc" / str(number) / "fd"
        folder.mkdir(parents=True)
        (folder.parent / "comm").write_text(name + "\n")
        for i, file in enumerate(files):
            (folder / str(i)).symlink_to(file)

    process(10, "idle", "/dev/null")
    process(11, "other", "/dev/null", "/dev/accel/accel0")
    process(12, "another", "/dev/accel/accel1")
    process(13, "ourselves", "/dev/accel/accel0")
    (tmp_path / "proc" / "self").mkdir()
    (tmp_path / "proc" / "14").mkdir()
    monkeypatch.setattr("os.getpid", lambda: 13)
    assert holders("/dev/accel/accel0", tmp_path) == ["other (process 11)"]


def test_forked_child(open_device: OpenDevice, entries: Entries, pyxrt: FakePyxrt) -> None:
    device: XrtDevice = open_device()
    gemm = Gemm(device.open(entries()[0]), SHAPE)
    device._process += 1
    for action in (
        gemm.launch,
        lambda: gemm.kernel.buffer(3, 1),
        lambda: gemm.kernel.program(SHAPE),
    ):
        with pytest.raises(DeviceLost, match="forked"):
            action()
    device.close()
    assert len(pyxrt.contexts) == 1
