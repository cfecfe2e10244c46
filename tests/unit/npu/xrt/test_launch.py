from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.npu.gemm_registry import Gemm
from tests.unit.npu.xrt.conftest import KEPT, Entries, OpenDevice
from tests.unit.npu.xrt.fake_pyxrt import FakePyxrt, State
from whisper_npu.backends.npu.device import DeviceLost, LaunchFailed, LaunchTimedOut, NoContext
from whisper_npu.backends.npu.xrt import launch
from whisper_npu.backends.npu.xrt.device import XrtDevice

SHAPE = (64, 128, 64)


@pytest.fixture
def device(open_device: OpenDevice) -> XrtDevice:
    return open_device()


@pytest.fixture
def gemm(device: XrtDevice, entries: Entries) -> Gemm:
    return Gemm(device.open(entries()[0]), SHAPE)


def set_arguments(pyxrt: FakePyxrt) -> list[int]:
    """Indices set since the last call."""
    indices = [entry[1] for entry in pyxrt.log if entry[0] == "set_arg"]
    pyxrt.log.clear()
    return indices


def test_the_arguments(gemm: Gemm, pyxrt: FakePyxrt) -> None:
    gemm.launch()
    values = {entry[1]: entry[2] for entry in pyxrt.log if entry[0] == "set_arg"}
    instructions = values.pop(1)
    assert values.pop(0) == 3
    assert values.pop(2) == instructions.size // 4
    assert bytes(instructions.device_side[12:16]) == instructions.size.to_bytes(4, "little")
    assert [values[i].size for i in (3, 4, 5)] == [64 * 128, 128 * 64, 4 * 64 * 64]
    assert values.keys() == {3, 4, 5}
    assert (gemm.result == 0x01010101).all()


def test_one_run_and_only_what_changed(gemm: Gemm, pyxrt: FakePyxrt) -> None:
    gemm.launch()
    assert set_arguments(pyxrt) == [0, 1, 2, 3, 4, 5]
    gemm.launch()
    assert set_arguments(pyxrt) == []
    gemm.buffers[1] = gemm.kernel.buffer(4, 128 * 64)
    gemm.launch()
    assert set_arguments(pyxrt) == [4]
    gemm.program = gemm.kernel.program(SHAPE)
    gemm.launch()
    assert set_arguments(pyxrt) == [1]
    assert pyxrt.count("run") == 0


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (State.ERT_CMD_STATE_ERROR, "ended as ERT_CMD_STATE_ERROR"),
        (State.ERT_CMD_STATE_ABORT, "ended as ERT_CMD_STATE_ABORT"),
        (State.ERT_CMD_STATE_TIMEOUT, "the driver ended the launch"),
    ],
)
def test_failed_launch(gemm: Gemm, pyxrt: FakePyxrt, state: State, words: str) -> None:
    """It says how it ended; what was on the device before it is not used again."""
    gemm.launch()
    pyxrt.states = [state]
    set_arguments(pyxrt)
    with pytest.raises(LaunchFailed, match=f"^kernel gemm_0: .*{words}") as caught:
        gemm.launch()
    # Also while somebody keeps the exception, with the frames that it came through.
    assert caught.tb
    assert len(pyxrt.contexts) == 0
    gemm.launch()
    assert set_arguments(pyxrt) == [0, 1, 2, 3, 4, 5]
    assert pyxrt.count("context") == 0
    assert len(pyxrt.contexts) == 1


def test_states_that_are_not_final(gemm: Gemm, pyxrt: FakePyxrt) -> None:
    """SUBMITTED is a larger number than COMPLETED, and not the end."""
    states = iter([1, 2, 3, 7, 7, 4])
    assert launch.wait(lambda: next(states), 5) == 4
    assert list(states) == []


def test_hung_launch(device: XrtDevice, gemm: Gemm, pyxrt: FakePyxrt) -> None:
    """It ends at the deadline; run, context and buffers are never freed."""
    device.launch_timeout_s = 0.05
    pyxrt.states = [None]
    start = time.monotonic()
    with pytest.raises(LaunchTimedOut, match=r"^kernel gemm_0: .*0\.05 s") as caught:
        gemm.launch()
    assert 0.05 <= time.monotonic() - start < 2
    del caught
    [kept] = KEPT
    sizes = [owner.bo.size for _, owner in kept._bound if not isinstance(owner, int)]
    assert sizes[1:] == [64 * 128, 128 * 64, 4 * 64 * 64]
    device.close()
    assert len(pyxrt.contexts) == 1
    assert pyxrt.aborted == 0


def test_each_hang_takes_a_context(device: XrtDevice, gemm: Gemm, pyxrt: FakePyxrt) -> None:
    device.launch_timeout_s = 0.001
    pyxrt.states = [None] * 6
    for _ in range(6):
        with pytest.raises(LaunchTimedOut):
            gemm.launch()
    with pytest.raises(NoContext, match=r"^kernel gemm_0: 6 launches of this process have hung"):
        gemm.launch()
    assert len(pyxrt.contexts) == 6


def interrupt(pyxrt: FakePyxrt, *polls: int) -> None:
    """Ctrl-C during these readings of the state."""
    n = 0

    def polling() -> None:
        nonlocal n
        n += 1
        if n in polls:
            raise KeyboardInterrupt

    pyxrt.polling = polling


def test_interrupt_waits_for_the_end(gemm: Gemm, pyxrt: FakePyxrt) -> None:
    interrupt(pyxrt, 2)
    with pytest.raises(KeyboardInterrupt):
        gemm.launch()
    assert pyxrt.aborted == 0
    assert KEPT == []
    assert len(pyxrt.contexts) == 0
    gemm.launch()
    assert (gemm.result == 0x02020202).all()


@pytest.mark.parametrize("polls", [(2,), (2, 4)])
def test_interrupt_of_a_hang(
    gemm: Gemm, pyxrt: FakePyxrt, monkeypatch: pytest.MonkeyPatch, polls: tuple[int, ...]
) -> None:
    """After some time, or at once with a second Ctrl-C, the context is given up."""
    monkeypatch.setattr(launch, "_GRACE_S", 0.01 if len(polls) == 1 else 1e9)
    pyxrt.states = [None]
    interrupt(pyxrt, *polls)
    with pytest.raises(KeyboardInterrupt):
        gemm.launch()
    assert len(KEPT) == 1
    assert len(pyxrt.contexts) == 1
    gemm.launch()
    assert len(pyxrt.contexts) == 2
    assert pyxrt.aborted == 0


def test_launch_that_does_not_start(gemm: Gemm, pyxrt: FakePyxrt) -> None:
    gemm.launch()
    for context in pyxrt.contexts:
        context.broken = True
    with pytest.raises(LaunchFailed, match=r"^kernel gemm_0: the launch did not start .*err=-2"):
        gemm.launch()
    gemm.launch()


def test_lost_device(gemm: Gemm, pyxrt: FakePyxrt) -> None:
    gemm.launch()
    pyxrt.lost = True
    for action in (gemm.launch, gemm.launch, gemm.load, lambda: gemm.kernel.program(SHAPE)):
        with pytest.raises(DeviceLost, match=r"^kernel gemm_0.*: the NPU has gone .*err=-19"):
            action()


def test_closed_device(device: XrtDevice, gemm: Gemm, entries: Entries, pyxrt: FakePyxrt) -> None:
    device.close()
    device.close()
    assert len(pyxrt.contexts) == 0
    gemm.buffers[0].array[:] = 1
    for action in (
        gemm.launch,
        lambda: device.open(entries()[0]),
        lambda: gemm.kernel.program(SHAPE),
    ):
        with pytest.raises(DeviceLost, match="closed"):
            action()


def test_waiting_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at first; then in proportion to the time that has passed, within bounds."""
    now = 0.0
    sleeps: list[tuple[float, float]] = []

    def sleep(seconds: float) -> None:
        nonlocal now
        sleeps.append((now, seconds))
        now += seconds

    def state() -> int:
        nonlocal now
        now += 1e-6
        return 4 if now > 0.02 else 1

    clock: Any = SimpleNamespace(perf_counter=lambda: now, sleep=sleep)
    monkeypatch.setattr(launch, "time", clock)
    assert launch.wait(state, 1) == 4
    assert 100e-6 < sleeps[0][0] < 300e-6
    assert min(seconds for _, seconds in sleeps) == 50e-6
    assert max(seconds for _, seconds in sleeps) == 500e-6
    assert all(seconds <= max(at / 8, 50e-6) for at, seconds in sleeps)


def test_time_in_which_the_program_was_stopped_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, polls = 0.0, 0

    def state() -> int:
        nonlocal now, polls
        polls += 1
        # Stopped for two minutes before the 10th poll; the kernel ends after the 300th.
        now += 120 if polls == 10 else 1e-3
        return 4 if polls == 300 else 1

    monkeypatch.setattr(
        launch, "time", SimpleNamespace(perf_counter=lambda: now, sleep=lambda seconds: None)
    )
    assert launch.wait(state, 2) == 4
    polls = -10_000
    assert launch.wait(state, 2) == 1
    assert polls < -7_000
