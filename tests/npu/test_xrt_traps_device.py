"""Traps of the device, its contexts and processes.

Each test shows that a trap is there, and that our device stays out of it. The numbers are those
of docs/xrt-traps.md.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.npu.emulator import Emulator
from tests.npu.xrt_programs import PRELUDE, TIMEOUT_S, values

pytestmark = pytest.mark.npu


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
