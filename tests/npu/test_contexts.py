"""Contexts and memory run out as those of the real device, over processes too."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tests.npu.emulator import Emulator

pytestmark = pytest.mark.npu

# Contexts until one fails: how many there were, and why.
FILL = """
contexts, error = [], ""
while not error and len(contexts) < 20:
    error = message(lambda: contexts.append(context(sys.argv[1])))
print(json.dumps([len(contexts), error]))
"""
HOLD = "print('ready', flush=True)\ninput()\n"


@pytest.mark.parametrize(
    ("options", "most", "errno"),
    [
        ({}, 6, -28),
        ({"contexts": 2, "context_errno": "ENOENT"}, 2, -2),
        ({"contexts": 1, "context_errno": "EINVAL"}, 1, -22),
    ],
)
def test_context_limit(
    emulator: Emulator, xclbin: Path, options: dict[str, object], most: int, errno: int
) -> None:
    n, error = emulator.value(FILL, xclbin, **options)
    assert n == most
    assert f"CREATE_HWCTX IOCTL failed (err={errno})" in error


def test_limit_holds_over_processes(emulator: Emulator, xclbin: Path) -> None:
    """Four in one process leave two for the next; kill -9 gives all six back at once."""
    four = "contexts = [context(sys.argv[1]) for _ in range(4)]\n" + HOLD
    holder = emulator.start(four, xclbin)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        assert emulator.value(FILL, xclbin)[0] == 2
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    assert emulator.value(FILL, xclbin)[0] == 6


def test_kill_in_the_middle_of_a_launch(emulator: Emulator, xclbin: Path) -> None:
    """Killed at different moments, one after the other: the next has all contexts each time."""
    busy = """
print("ready", flush=True)
while True:
    g = Gemm(sys.argv[1])
    g.whole()
    del g
"""
    for delay in (0.0, 0.03, 0.06):
        process = emulator.start(busy, xclbin, contexts=1)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(delay)
        process.kill()
        process.communicate()
    assert emulator.value(FILL, xclbin, contexts=1)[0] == 1


def test_columns(emulator: Emulator, xclbin: Path, xclbin_4_columns: Path) -> None:
    """Four columns taken: one column more is ENODEV, four columns more share them. On an array of
    three, four are EINVAL."""
    code = """
wide = context(sys.argv[2])
print(json.dumps([message(lambda: context(sys.argv[i])) for i in (1, 2)]))
"""
    narrow, same = emulator.value(code, xclbin, xclbin_4_columns)
    assert "(err=-19): No such device" in narrow
    assert same == ""
    code = "print(message(lambda: context(sys.argv[1])))"
    assert "(err=-22): Invalid argument" in emulator.output(code, xclbin_4_columns, columns=3)


def test_evicting_one_breaks_the_others(emulator: Emulator, xclbin: Path) -> None:
    code = """
first, second = Gemm(sys.argv[1]), Gemm(sys.argv[1])
assert second.whole()
del first
print(message(second.run.start))
poll(second.run)
"""
    error = emulator.output(code, xclbin, evict_breaks=1)
    assert "EXEC_CMD IOCTL failed (err=-2): No such file or directory" in error
    assert emulator.output(code, xclbin) == ""


@pytest.mark.parametrize(("errno", "seen"), [("EAGAIN", -28), ("ENOMEM", -12)])
def test_heap_full(emulator: Emulator, xclbin: Path, errno: str, seen: int) -> None:
    """1 MiB is 32 granules: 4 for the context, 1 for the PDI and the rest for our buffers."""
    code = """
device, c = context(sys.argv[1])
group = pyxrt.kernel(c, "MLIR_AIE").group_id(1)
bos, error = [], ""
while not error and len(bos) < 40:
    error = message(lambda: bos.append(pyxrt.bo(device, 100, pyxrt.bo.cacheable, group)))
n = len(bos)
bos.pop()
freed = message(lambda: bos.append(pyxrt.bo(device, 100, pyxrt.bo.cacheable, group)))
print(json.dumps([n, error, freed]))
"""
    n, error, freed = emulator.value(code, xclbin, heap_kib=1024, heap_errno=errno)
    assert n == 27
    assert f"CREATE_BO IOCTL failed (err={seen})" in error
    assert freed == ""


def test_a_context_takes_four_commands(emulator: Emulator, xclbin: Path) -> None:
    """The fifth start waits until the first command is done."""
    code = """
g = Gemm(sys.argv[1])
g.sync_in()
runs = [pyxrt.run(g.kernel) for _ in range(5)]
firsts = []
for g.run in runs:
    g.set_arguments()
    g.run.start()
    firsts.append(int(runs[0].state()))
print(json.dumps([firsts, [poll(run) for run in runs]]))
"""
    firsts, states = emulator.value(code, xclbin, latency_us=700000)
    assert firsts == [1, 1, 1, 1, 4]
    assert states == [4] * 5


def test_forked_child_closes_the_device(emulator: Emulator, xclbin: Path) -> None:
    """It has no worker to wait for, and its parent's context stays."""
    code = """
import signal
import warnings
warnings.simplefilter("ignore")
g = Gemm(sys.argv[1])
pid = os.fork()
if pid == 0:
    signal.alarm(10)
    links = {int(name): f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")}
    nodes = [file for file, link in links.items() if os.path.realpath(link).endswith("accel0")]
    for file in nodes:
        os.close(file)
    print(len(nodes), flush=True)
    os._exit(0)
print(json.dumps([os.waitpid(pid, 0)[1], g.whole()]))
"""
    closed, parent = emulator.output(code, xclbin).splitlines()
    assert int(closed) > 0
    assert json.loads(parent) == [0, True]


def test_forked_child_has_no_device(emulator: Emulator, xclbin: Path) -> None:
    """Contexts and memory belong to the process that made them."""
    code = """
import warnings
warnings.simplefilter("ignore")
g = Gemm(sys.argv[1])
pid = os.fork()
if pid == 0:
    print(json.dumps(message(g.run.start)), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
print(json.dumps(g.whole()))
"""
    child, parent = emulator.output(code, xclbin).splitlines()
    assert "EXEC_CMD IOCTL failed (err=-22)" in json.loads(child)
    assert parent == "true"
