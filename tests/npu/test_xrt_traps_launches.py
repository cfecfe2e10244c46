"""Traps of launches: waiting, hangs, arguments and packets.

Each test shows that a trap is there, and that our device stays out of it. The numbers are those
of docs/xrt-traps.md.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.npu.emulator import Emulator
from tests.npu.xrt_programs import run, values

pytestmark = pytest.mark.npu

HANG = {"faults": "1:hang"}
SLOW = {"latency_us": 1_000_000}


def test_01_wait_does_not_time_out(emulator: Emulator, xclbin: Path) -> None:
    code = """
device, [g] = gemms(launch_timeout_s=0.3)
start = time.monotonic()
ours = caught(g.launch)
took = time.monotonic() - start
bare = BareGemm(sys.argv[1])
bare.run.start()
words = message(lambda: bare.run.wait(100))
say(ours, took, words)
os._exit(0)
"""
    ours, took, bare = values(emulator, code, xclbin, faults="1-2:hang")
    assert ours[0] == "LaunchTimedOut"
    assert "gemm_0" in ours[1]
    assert "0.3 s" in ours[1]
    assert 0.3 < took < 20
    assert "unexpected command state" in bare


def test_02_interrupted_wait(emulator: Emulator, xclbin: Path) -> None:
    code = """
import signal, threading
# A test run in the background ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)
device, [g] = gemms()
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
ours = caught(g.launch)
g.check()
bare = BareGemm(sys.argv[1])
# No thread of ours can send a signal now: the wait holds the GIL.
signal.signal(signal.SIGALRM, lambda *_: None)
bare.run.start()
signal.setitimer(signal.ITIMER_REAL, 0.2)
say(ours, caught(bare.run.wait), poll(bare.run))
"""
    ours, bare, state = values(emulator, code, xclbin, **SLOW)
    assert ours[0] == "KeyboardInterrupt"
    assert "unexpected command state" in bare[1]
    assert state == 4


def test_03_waiting_holds_the_gil(emulator: Emulator, xclbin: Path) -> None:
    code = """
import threading
device, [g] = gemms()
bare = BareGemm(sys.argv[1])
def steps_during(wait):
    count, stop = [0], []
    def work():
        while not stop:
            count[0] += 1
            time.sleep(0.001)
    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.01)
    before = count[0]
    wait()
    done = count[0] - before
    stop.append(1)
    thread.join()
    return done
def wait():
    bare.run.start()
    bare.run.wait()
say(steps_during(g.launch), steps_during(wait))
"""
    ours, bare = values(emulator, code, xclbin, **SLOW)
    assert ours > 4 * bare


@pytest.mark.parametrize(
    ("end", "exit_code"), [("sys.exit(7)", 7), ("raise SystemExit", 0), ("1 / 0", 1)]
)
def test_04_unfinished_run_aborts(
    emulator: Emulator, xclbin: Path, end: str, exit_code: int
) -> None:
    code = "device, [g] = gemms(launch_timeout_s=0.2)\nprint(caught(g.launch)[0], flush=True)\n"
    ours = run(emulator, code + end, xclbin, **HANG)
    assert (ours.stdout.strip(), ours.returncode) == ("LaunchTimedOut", exit_code)
    assert "destructed" not in ours.stderr


def test_04_bare_run_aborts(emulator: Emulator, xclbin: Path) -> None:
    code = "bare = BareGemm(sys.argv[1])\nbare.run.start()\nbare.run = None"
    bare = run(emulator, code, xclbin, **HANG)
    assert bare.returncode == -signal.SIGABRT
    assert "xrt::run destructed while command is still in progress" in bare.stderr


def test_04_device_goes_on_after_a_hang(emulator: Emulator, xclbin: Path) -> None:
    code = """
device, [g, other] = gemms(2, launch_timeout_s=0.2)
errors = [caught(g.launch)[0] for _ in range(6)]
device.launch_timeout_s = 30
say(errors, caught(g.launch))
"""
    errors, last = values(emulator, code, xclbin, faults="1-6:hang")
    assert errors == ["LaunchTimedOut"] * 6
    assert last[0] == "NoContext"
    assert "6 launches of this process have hung" in last[1]
    code = """
device, [g, other] = gemms(2, launch_timeout_s=0.2)
first = caught(g.launch)[0]
device.launch_timeout_s = 30
other.check()
g.buffers = [g.kernel.buffer(3 + i, len(b.array)) for i, b in enumerate(g.buffers)]
g.load()
g.check()
say(first)
"""
    assert values(emulator, code, xclbin, **HANG) == ["LaunchTimedOut"]


def test_05_kernel_call_swallows_errors(emulator: Emulator, xclbin: Path) -> None:
    code = """
device, [g] = gemms()
a, b, c = g.buffers
wrong = [caught(lambda x=x: g.kernel.launch(g.program, [a, x, c])) for x in (64.0, None, b.array)]
g.check()
bare = BareGemm(sys.argv[1])
run = bare.kernel(3, bare.instructions, 64.0, *bare.buffers)
say(wrong, poll(run))
"""
    wrong, _ = values(emulator, code, xclbin)
    assert [kind for kind, _ in wrong] == ["LaunchFailed"] * 3
    assert all("argument 4 (bo1)" in text for _, text in wrong)


def test_06_07_packet_of_a_failed_launch(emulator: Emulator, xclbin: Path) -> None:
    """0xff in a recycled packet, the upper half of the opcode included, does not reach the next."""
    code = """
device, [g] = gemms()
ends = []
for _ in range(4):
    ends.append(caught(g.launch))
    g.check()
bare = BareGemm(sys.argv[1])
bare.sync_in()
say(ends, [bare.launch(), bare.launch()])
"""
    faults = "1:error,3:abort,5:timeout,9:error"
    ends, bare = values(emulator, code, xclbin, faults=faults)
    assert [end[0] for end in ends[:3]] == ["LaunchFailed"] * 3
    states = ("STATE_ERROR", "STATE_ABORT", "STATE_TIMEOUT")
    assert all(state in end[1] for state, end in zip(states, ends[:3], strict=True))
    assert ends[3] == []
    assert bare == [5, 5]


def test_08_run_that_did_not_start(emulator: Emulator, xclbin: Path) -> None:
    """A start that fails is an error at once, and the next launch works."""
    code = """
device, [g] = gemms()
g.check()
bare = BareGemm(sys.argv[1])
bare.run = bare.kernel = bare.context = None
gc.collect()
say(caught(g.launch), g.check())
"""
    error, _ = values(emulator, code, xclbin, evict_breaks=1)
    assert error[0] == "LaunchFailed"
    assert "did not start" in error[1]


def test_17_runlists_are_no_use(emulator: Emulator, xclbin: Path) -> None:
    """Why there are none: no deadline, no state, so that a hang cannot be told."""
    code = """
g = BareGemm(sys.argv[1])
g.sync_in()
runs = [pyxrt.run(g.kernel) for _ in range(2)]
runs_list = pyxrt.runlist(g.context)
for g.run in runs:
    g.set_arguments()
    runs_list.add(g.run)
runs_list.execute()
timed = message(lambda: runs_list.wait(1000))
runs_list.wait()
say(timed, [int(run.state()) for run in runs])
"""
    timed, states = values(emulator, code, xclbin)
    assert "incompatible function arguments" in timed
    assert states == [1, 1]


def test_18_at_most_one_launch_at_a_time(emulator: Emulator, xclbin: Path) -> None:
    """A fifth start would block with the GIL held: threads take turns before they start."""
    code = """
import threading
device, [g] = gemms()
others = [Gemm(g.kernel, SHAPE, seed) for seed in range(1, 8)]
failed = []
def work(gemm):
    for _ in range(5):
        try:
            gemm.check()
        except BaseException as error:
            failed.append(repr(error))
threads = [threading.Thread(target=work, args=(gemm,)) for gemm in others]
for thread in threads:
    thread.start()
ticks = 0
while any(thread.is_alive() for thread in threads):
    time.sleep(0.001)
    ticks += 1
say(failed, ticks, counters()["completed"])
"""
    failed, ticks, completed = values(emulator, code, xclbin, latency_us=5000)
    assert failed == []
    assert completed == 35
    assert ticks > 10


def test_19_driver_ends_a_hang(emulator: Emulator, xclbin: Path) -> None:
    code = "device, [g] = gemms()\nsay(caught(g.launch), g.check())"
    error, _ = values(emulator, code, xclbin, faults="1:hang", tdr_ms=200)
    assert error[0] == "LaunchFailed"
    assert "the driver ended the launch" in error[1]
