"""Each trap of AMD's user space: that it is there, and that our device does not fall into it.

The numbers are those of docs/xrt-traps.md.
"""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.npu.emulator import Emulator

pytestmark = pytest.mark.npu

TIMEOUT_S = 300
PRELUDE = "from tests.npu.xrt_client import *\n"

HANG = {"faults": "1:hang"}
SLOW = {"latency_us": 1_000_000}


def values(emulator: Emulator, code: str, *arguments: str | Path, **options: object) -> Any:
    """What the code says; it must end well."""
    done = run(emulator, code, *arguments, **options)
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout)


def run(
    emulator: Emulator, code: str, *arguments: str | Path, **options: object
) -> subprocess.CompletedProcess[str]:
    process = emulator.start(PRELUDE + code, *arguments, **options)
    try:
        out, err = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


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


def test_09_buffer_too_many(emulator: Emulator, xclbin: Path) -> None:
    code = """
device, [g] = gemms()
a, b, c = g.buffers
say([caught(lambda x=x: g.kernel.launch(g.program, x)) for x in ([a, b], [a, b, c, c], [a] * 9)])
"""
    (errors,) = values(emulator, code, xclbin)
    assert [kind for kind, _ in errors] == ["LaunchFailed"] * 3
    assert [text.split("takes ")[1] for _, text in errors] == [
        f"3 data buffers, not {n}" for n in (2, 4, 9)
    ]
    code = "g = BareGemm(sys.argv[1])\ng.run.set_arg(8, g.buffers[0])"
    assert run(emulator, code, xclbin).returncode == -signal.SIGSEGV


def test_10_array_outlives_its_buffer(emulator: Emulator, xclbin: Path) -> None:
    code = """
device, [g] = gemms()
view = g.kernel.buffer(3, 1 << 20).array.view(np.int32).reshape(512, -1)[7:9, ::2].T
view[...] = np.arange(view.size).reshape(view.shape)
g.kernel.close()
device.close()
del device, g
gc.collect()
live = counters()["host_only_bos"]
right = bool((view == np.arange(view.size).reshape(view.shape)).all())
del view
gc.collect()
c = counters()
say(live, right, [c["host_only_bos"], c["cacheable_bos"], c["contexts"], c["heaps"]])
"""
    assert values(emulator, code, xclbin) == [1, True, [0, 0, 0, 0]]


def test_11_data_that_is_not_contiguous(emulator: Emulator, xclbin: Path) -> None:
    code = """
device, [g] = gemms()
g.x = np.asfortranarray(g.x)
g.buffers[0].array.view(np.int8).reshape(64, 64)[...] = g.x
g.buffers[0].to_device()
g.check()
bo = g.buffers[0].memory.bo
bo.write(g.x.T[::2], 0)
say(bool((g.buffers[0].array.view(np.int8).reshape(64, 64)[:32] == g.x.T[::2]).all()))
"""
    assert values(emulator, code, xclbin) == [False]


def test_12_forgotten_sync(emulator: Emulator, xclbin: Path) -> None:
    """Strict mode shows it; what we sync is the whole buffer."""
    code = """
device, [g] = gemms()
g.check()
a = g.buffers[0].array
old = g.expected
a[-1] ^= 1
g.x[-1, -1] ^= 1
g.launch()
forgotten = bool((g.result == old).all())
g.buffers[0].to_device()
g.check()
say(forgotten)
"""
    assert values(emulator, code, xclbin) == [True]


def test_13_wrong_memory_group(emulator: Emulator, xclbin: Path) -> None:
    code = """
device, [g] = gemms()
wrong = [caught(lambda i=i: g.kernel.buffer(i, 64)) for i in (0, 1, 2, 6, -1)]
bare = BareGemm(sys.argv[1])
say(wrong, message(lambda: bare.run.set_arg(1, bare.buffers[0])))
"""
    wrong, bare = values(emulator, code, xclbin)
    assert [kind for kind, _ in wrong] == ["BufferRefused"] * 5
    assert "No host side buffer in destination buffer" in bare


def test_14_forked_child(emulator: Emulator, xclbin: Path) -> None:
    code = """
device, [g] = gemms()
g.check()
read, write = os.pipe()
child = os.fork()
if child == 0:
    errors = [caught(g.launch)[0], caught(lambda: g.kernel.buffer(3, 64))[0]]
    os.write(write, json.dumps(errors).encode())
    g.kernel.close()
    device.close()
    del g, device
    sys.exit(3)
_, status = os.waitpid(child, 0)
g.check()
say(json.loads(os.read(read, 1000)), os.waitstatus_to_exitcode(status), counters()["host_only_bos"])
"""
    assert values(emulator, code, xclbin) == [["DeviceLost"] * 2, 3, 3]


def test_15_device_is_a_singleton(emulator: Emulator, xclbin: Path) -> None:
    """Two devices share the open file; closing one leaves the other, closing both frees all."""
    code = """
one, [g] = gemms()
two, [h] = gemms()
heaps = counters()["heaps"]
one.close()
h.check()
closed = caught(g.launch)[0]
two.close()
del g, h, one, two
gc.collect()
c = counters()
three, [g] = gemms()
g.check()
say(heaps, closed, [c["heaps"], c["bos"], c["contexts"]])
"""
    assert values(emulator, code, xclbin) == [1, "DeviceLost", [0, 0, 0]]


def test_16_buffers_outlive_contexts(emulator: Emulator, xclbin: Path) -> None:
    """A kernel opened again takes the buffers of its predecessor; what is bound is not freed."""
    code = """
device, [g, h] = gemms(2)
g.check()
g.kernel.close()
closed = caught(g.launch)
g.kernel = h.kernel
g.program = h.program
g.check()
live = counters()["host_only_bos"]
device.pool.close()
del g
gc.collect()
kept = counters()["host_only_bos"]
h.check()
say(closed, live, kept, counters()["host_only_bos"])
"""
    closed, live, kept, after = values(emulator, code, xclbin)
    assert closed[0] == "DeviceError"
    assert "is closed" in closed[1]
    assert (live, kept, after) == (6, 6, 3)


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


HOLD = """
held = []
try:
    while True:
        held.append(BareGemm(sys.argv[1]))
except RuntimeError:
    say(len(held))
sys.stdin.read()
"""


@pytest.mark.parametrize("errno_name", ["ENOSPC", "ENOENT", "ENODEV", "EINVAL"])
def test_20_contexts_of_another_process(emulator: Emulator, xclbin: Path, errno_name: str) -> None:
    options = {"contexts": 2, "context_errno": errno_name}
    other = emulator.start(PRELUDE + HOLD, xclbin, **options)
    assert other.stdin is not None
    assert other.stdout is not None
    assert other.stdout.readline() == "[2]\n"
    code = """
device = open_device(context_timeout_s=0.2)
[e] = registry(sys.argv[1])
first = caught(lambda: device.open(e))
print(json.dumps(first), flush=True)
device.contexts._timeout_s = 40
Gemm(device.open(e), SHAPE).check()
print("right", flush=True)
"""
    process = emulator.start(PRELUDE + code, xclbin, **options)
    assert process.stdout is not None
    kind, text = json.loads(process.stdout.readline())
    assert kind == "NoContext"
    assert f"(process {other.pid})" in text
    other.communicate("")
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert out == "right\n", err


def test_20_columns_of_another_width(
    emulator: Emulator, xclbin: Path, xclbin_4_columns: Path
) -> None:
    """Our own contexts make room when the driver says ENODEV."""
    code = """
device = open_device(context_timeout_s=0.2)
gemms = [Gemm(device.open(e), SHAPE) for e in registry(sys.argv[1], sys.argv[2])]
for _ in range(2):
    for g in gemms:
        g.check()
say(counters()["contexts_created"])
"""
    (created,) = values(emulator, code, xclbin_4_columns, xclbin)
    assert created >= 4


def test_21_heap_is_full(emulator: Emulator, xclbin: Path) -> None:
    """128 KiB of it are the context's, as much is its configuration's and our instructions'."""
    code = """
device, [g] = gemms()
programs = []
def fill():
    while True:
        programs.append(g.kernel.program((64, 64, 64 * (len(programs) + 2))))
error = caught(fill)
n = len(programs)
g.check()
programs.clear()
again = caught(fill)
say(error, n, again[0], len(programs))
"""
    for errno_name in ("EAGAIN", "ENOMEM"):
        error, n, again, n_again = values(
            emulator, code, xclbin, heap_kib=512, heap_errno=errno_name
        )
        assert error[0] == again == "BufferRefused"
        assert "argument 1 (instr)" in error[1]
        assert n_again == n > 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memlock_kib": 32 << 10}, "locked memory"),
        ({"presence": "no-permission"}, "no permission"),
        ({"presence": "none"}, "No such device"),
        ({"presence": "no-driver"}, "No such device"),
    ],
)
def test_22_device_does_not_open(
    emulator: Emulator, xclbin: Path, options: dict[str, object], words: str
) -> None:
    kind, text = values(emulator, "say(*caught(open_device))", **options)
    assert kind == "NoDevice"
    assert words in text
    assert "whisper-npu doctor" in text


def test_23_errors_are_typed(emulator: Emulator, xclbin: Path) -> None:
    """pyxrt has RuntimeError for everything, and the reason in words."""
    code = """
device, [g] = gemms()
g.check()
lost = [caught(g.launch)[0], caught(g.launch), caught(lambda: g.kernel.program(SHAPE))]
say(lost)
"""
    (lost,) = values(emulator, code, xclbin, faults="2:enodev")
    assert lost[0] == "LaunchFailed"
    assert [kind for kind, _ in lost[1:]] == ["DeviceLost"] * 2
    assert all("kernel gemm_0" in text for _, text in lost[1:])
