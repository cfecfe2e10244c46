"""Our device on AMD's pyxrt under the emulator, in strict sync mode."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tests.npu.emulator import Emulator
from tests.npu.xrt_programs import PRELUDE, TIMEOUT_S, run, values

pytestmark = pytest.mark.npu


@pytest.mark.parametrize("syncobj", [1, 0])
def test_products(emulator: Emulator, xclbin: Path, syncobj: int) -> None:
    """Of several shapes, with programs and buffers in any order."""
    code = """
device = open_device()
[e] = registry(sys.argv[1])
kernel = device.open(e)
shapes = [(64, 64, 64), (192, 128, 64), (64, 320, 128), (128, 64, 192)]
products = [Gemm(kernel, shape, seed) for seed, shape in enumerate(shapes)]
for g in [*products, *reversed(products), *products[::2]]:
    g.check()
c = counters()
say(c["contexts_created"], c["command_bos"], c["cacheable_bos"] - len(shapes))
"""
    created, packets, configurations = values(emulator, code, xclbin, syncobj=syncobj)
    assert created == 1
    assert packets == 1
    assert configurations == 1


def test_identity(emulator: Emulator) -> None:
    code = """
device = open_device()
i = device.identity
say(i.name, i.pci_id, i.firmware, i.driver, i.xrt.split(".")[0])
"""
    options = {"revision": "0x10", "firmware": "1.2.3.4", "driver_version": "9.8,fedc"}
    got = values(emulator, code, **options)
    assert got == ["RyzenAI-npu1", "1022:1502 rev 10", "1.2.3.4", "amdxdna 9.8,fedc", "2"]


def test_contexts_of_phoenix(emulator: Emulator, xclbin: Path) -> None:
    """More kernels than contexts, where the end of one context breaks the others."""
    code = """
device, products = gemms(8)
# Backwards, they come to those whose contexts an eviction has not reached.
for g in [*products, *reversed(products)]:
    g.check()
live = counters()["contexts"]
products[0].kernel.close()
for g in products[1:]:
    g.check()
device.close()
say(live, counters()["contexts"], counters()["failed"])
"""
    live, after, failed = values(emulator, code, xclbin, evict_breaks=1)
    assert live <= 6
    assert (after, failed) == (0, 0)


def test_nothing_is_left(emulator: Emulator, xclbin: Path) -> None:
    code = """
def use():
    device, [g, h] = gemms(2)
    for _ in range(5):
        g.check()
        h.check()
        g.kernel.program((64, 128, 64))
    device.close()
use()
gc.collect()
first = counters()
for _ in range(5):
    use()
gc.collect()
last = counters()
keys = ("bos", "bo_bytes", "heap_used_bytes", "contexts", "heaps")
say([first[k] for k in keys], [last[k] for k in keys], last["contexts_created"])
"""
    first, last, created = values(emulator, code, xclbin)
    assert first == last == [0] * 5
    assert created == 12


def test_devices_that_were_dropped(emulator: Emulator, xclbin: Path) -> None:
    """They are in cycles of references, and keep their contexts until something collects them."""
    code = """
gc.disable()
def use():
    device, products = gemms(2, context_timeout_s=0.2)
    for g in products:
        g.check()
for _ in range(3):
    use()
say(counters()["contexts"])
"""
    assert values(emulator, code, xclbin, contexts=3) == [2]


def test_contexts_that_this_program_has_itself(emulator: Emulator, xclbin: Path) -> None:
    code = """
device, products = gemms(2)
other = open_device(context_timeout_s=0.2)
say(caught(lambda: other.open(registry(sys.argv[1])["gemm_0"])), [g.check() for g in products])
"""
    error, _ = values(emulator, code, xclbin, contexts=2)
    assert error[0] == "NoContext"
    assert "taken by this program (close " in error[1]


def test_process_that_is_stopped(emulator: Emulator, xclbin: Path) -> None:
    """Ctrl-Z for longer than a launch may take: that is not the kernel's time."""
    code = """
device, [g] = gemms(launch_timeout_s=4)
print("ready", flush=True)
g.launch()
say(g.expected.tolist() == g.result.tolist())
"""
    process = emulator.start(PRELUDE + code, xclbin, latency_us=6_000_000)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGSTOP)
    time.sleep(4)
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert out == "[true]\n", err


def test_process_that_does_not_close(emulator: Emulator, xclbin: Path) -> None:
    """Interpreter exit with everything open, also in the middle of an exception."""
    code = "device, [g, h] = gemms(2)\ng.check()\nview = g.buffers[0].array\n"
    for end, exit_code in (("", 0), ("sys.exit(3)", 3), ("1 / 0", 1)):
        done = run(emulator, code + end, xclbin)
        assert done.returncode == exit_code, done.stderr
        assert "XRT" not in done.stderr


@pytest.mark.parametrize(
    ("options", "exit_code", "wrong"),
    [
        ({}, 0, []),
        ({"presence": "none"}, 5, ["device", "driver", "open"]),
        ({"presence": "no-driver"}, 5, ["driver", "open"]),
        ({"presence": "no-permission"}, 5, ["device file", "open"]),
        # The emulator applies the limit to root, whom a real system lets lock what it likes.
        ({"memlock_kib": 32 << 10}, 5, ["open"]),
    ],
)
def test_doctor(
    emulator: Emulator, options: dict[str, object], exit_code: int, wrong: list[str]
) -> None:
    code = """
import whisper_npu.cli
sys.exit(whisper_npu.cli.main(["doctor", "--format", "json"]))
"""
    done = run(emulator, code, **options)
    assert done.returncode == exit_code, done.stderr
    document = json.loads(done.stdout)
    assert document["usable"] is (exit_code == 0)
    names = [check["name"] for check in document["checks"] if check["ok"] is False]
    assert [name for name in names if name != "locked memory"] == wrong
    [xrt] = [check["found"] for check in document["checks"] if check["name"] == "XRT"]
    assert xrt.startswith("version 2.")
