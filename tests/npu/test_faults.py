"""Launches that end badly or never, as asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.npu.emulator import Emulator

pytestmark = pytest.mark.npu

# States of six launches, arguments set anew for each; then whether the last result is right.
SIX = """
g = Gemm(sys.argv[1])
g.sync_in()
states = []
for _ in range(6):
    g.set_arguments()
    states.append(g.launch())
g.sync_out()
c = counters()
print(json.dumps([states, g.right(), [c["launches"], c["completed"], c["failed"]]]))
"""


def test_each_state(emulator: Emulator, xclbin: Path) -> None:
    got = emulator.value(SIX, xclbin, faults="2:error,3:abort,4-5:timeout")
    assert got == [[4, 5, 6, 8, 8, 4], True, [6, 2, 4]]


def test_packet_of_a_failed_launch(emulator: Emulator, xclbin: Path) -> None:
    """Its arguments are gone, as with drivers since 2026-02, unless older ones are asked for."""
    code = """
g = Gemm(sys.argv[1])
g.sync_in()
print(json.dumps([g.launch(), g.launch()]))
"""
    assert emulator.value(code, xclbin, faults="1:error") == [5, 5]
    assert emulator.value(code, xclbin, faults="1:error", fill_failed=0) == [5, 4]


def test_failing_run_of_a_list(emulator: Emulator, xclbin: Path) -> None:
    code = """
g = Gemm(sys.argv[1])
g.sync_in()
runs = [pyxrt.run(g.kernel) for _ in range(4)]
lists = pyxrt.runlist(g.context)
for g.run in runs:
    g.set_arguments()
    lists.add(g.run)
lists.execute()
print(json.dumps([message(lists.wait), [int(r.state()) for r in runs]]))
"""
    error, states = emulator.value(code, xclbin, faults="2:error")
    assert "runlist failed execution (ERT_CMD_STATE_ERROR)" in error
    assert states == [1, 5, 6, 6]


HANG = """
g = Gemm(sys.argv[1])
g.sync_in()
first = g.launch()
g.run.start()
print(json.dumps([first, poll(g.run, float(sys.argv[2]))]), flush=True)
os._exit(0)
"""


def test_hang(emulator: Emulator, xclbin: Path) -> None:
    """The state stays NEW; with a time limit of the driver it becomes TIMEOUT."""
    assert emulator.value(HANG, xclbin, "0.3", faults="2-:hang") == [4, 1]
    assert emulator.value(HANG, xclbin, "30", faults="2:hang", tdr_ms=100) == [4, 8]


def test_health_record_of_a_timeout(emulator: Emulator, xclbin: Path) -> None:
    code = """
g = Gemm(sys.argv[1])
g.run.start()
poll(g.run)
print(message(g.run.wait2))
"""
    error = emulator.output(code, xclbin, faults="1:timeout")
    assert "Command failed to complete successfully (ERT_CMD_STATE_TIMEOUT)" in error
    assert "txn_op_idx = 0xFFFFFFFF" in error


def test_lost_device(emulator: Emulator, xclbin: Path) -> None:
    """From the second launch on every call to the driver is ENODEV, also in a new device object."""
    code = """
g = Gemm(sys.argv[1])
g.sync_in()
states = [g.launch(), g.launch()]
g.set_arguments()
errors = [message(g.run.start), message(lambda: g.bo(np.zeros(64, np.int8), 3))]
del g
print(json.dumps([states, errors, message(lambda: pyxrt.device(0))]), flush=True)
os._exit(0)
"""
    states, errors, again = emulator.value(code, xclbin, faults="2:enodev")
    assert states == [4, 6]
    assert "EXEC_CMD IOCTL failed (err=-19): No such device" in errors[0]
    assert "CREATE_BO IOCTL failed (err=-19): No such device" in errors[1]
    assert "(err=-19): No such device" in again


WAIT = """
g = Gemm(sys.argv[1])
g.sync_in()
g.run.start()
try:
    got = int(g.run.wait(50))
except RuntimeError as error:
    got = str(error)
poll(g.run)
print(json.dumps([got, int(g.run.wait(1000))]))
"""


def test_wait_with_a_timeout(emulator: Emulator, xclbin: Path) -> None:
    """XRT ignores that waiting on a syncobj timed out; by WAIT_CMD it says TIMEOUT."""
    got, later = emulator.value(WAIT, xclbin, latency_us=700000)
    assert "unexpected command state" in got
    assert later == 4
    assert emulator.value(WAIT, xclbin, latency_us=700000, syncobj=0) == [8, 4]


@pytest.mark.parametrize(
    ("syncobj", "words"), [(1, "unexpected command state"), (0, "Interrupted system call")]
)
def test_signal_while_waiting(emulator: Emulator, xclbin: Path, syncobj: int, words: str) -> None:
    """A signal ends the wait in the driver; waiting again works."""
    code = """
import signal
signal.signal(signal.SIGALRM, lambda *_: None)
g = Gemm(sys.argv[1])
g.sync_in()
g.run.start()
signal.setitimer(signal.ITIMER_REAL, 0.1)
error = message(g.run.wait)
print(json.dumps([error, int(g.run.state()), int(g.run.wait())]))
"""
    error, during, after = emulator.value(code, xclbin, latency_us=800000, syncobj=syncobj)
    assert words in error
    assert (during, after) == (1, 4)


def test_latency(emulator: Emulator, xclbin: Path) -> None:
    code = """
g = Gemm(sys.argv[1])
start = time.monotonic()
g.launch()
print(time.monotonic() - start)
"""
    assert 0.3 <= float(emulator.output(code, xclbin, latency_us=300000)) < 5


def test_bo_freed_before_start(emulator: Emulator, xclbin: Path) -> None:
    """The driver looks handles up when the command comes."""
    code = """
g = Gemm(sys.argv[1])
del g.buffers[0]
print(json.dumps(message(g.run.start)))
"""
    assert "(err=-2): No such file or directory" in json.loads(emulator.output(code, xclbin))
