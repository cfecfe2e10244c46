"""How the emulated device is found, or not: enumeration, sysfs, permission, limits, versions."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.npu.emulator import Emulator, environment

pytestmark = pytest.mark.npu

LOOK = """
import glob, stat
node = "/dev/accel/accel0"
print(json.dumps({
    "enumerated": pyxrt.enumerate_devices(),
    "error": message(lambda: pyxrt.device(0)),
    "pci": [os.path.basename(path) for path in glob.glob("/sys/bus/pci/devices/*")],
    "driver": os.path.exists("/sys/module/amdxdna"),
    "bound": glob.glob("/sys/bus/pci/devices/*/driver"),
    "node": os.path.exists(node) and stat.S_ISCHR(os.stat(node).st_mode),
    "writable": os.access(node, os.R_OK | os.W_OK),
}))
"""


def test_present(emulator: Emulator) -> None:
    found = emulator.value(LOOK)
    assert found == {
        "enumerated": 1,
        "error": "",
        "pci": ["0000:c5:00.1"],
        "driver": True,
        "bound": ["/sys/bus/pci/devices/0000:c5:00.1/driver"],
        "node": True,
        "writable": True,
    }


def test_no_device(emulator: Emulator) -> None:
    found = emulator.value(LOOK, presence="none")
    assert "No such device with index '0'" in found.pop("error")
    assert found == {
        "enumerated": 0,
        "pci": [],
        "driver": False,
        "bound": [],
        "node": False,
        "writable": False,
    }


def test_no_driver(emulator: Emulator) -> None:
    found = emulator.value(LOOK, presence="no-driver")
    assert "No such device with index '0'" in found.pop("error")
    assert found == {
        "enumerated": 0,
        "pci": ["0000:c5:00.1"],
        "driver": False,
        "bound": [],
        "node": False,
        "writable": False,
    }


def test_no_permission(emulator: Emulator) -> None:
    found = emulator.value(LOOK, presence="no-permission")
    assert "Open /dev/accel/accel0 failed (err=-13): Permission denied" in found.pop("error")
    assert (found["enumerated"], found["node"], found["writable"]) == (1, True, False)


def test_memlock_limit(emulator: Emulator) -> None:
    """The heap of 64 MiB is locked: one KiB less is too little."""
    code = """
import resource
limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
print(json.dumps([limit, message(lambda: pyxrt.device(0))]))
"""
    limit, error = emulator.value(code, memlock_kib=64 * 1024 - 1)
    assert limit == 2**26 - 1024
    assert "failed (err=-11): Resource temporarily unavailable" in error
    assert "len=67108864" in error
    assert emulator.value(code, memlock_kib=64 * 1024) == [2**26, ""]
    assert emulator.value(code) == [-1, ""]


def test_identity(emulator: Emulator) -> None:
    """What the options say reaches XRT and sysfs."""
    code = """
folder = "/sys/bus/pci/devices/0000:01:00.1/"
d = pyxrt.device(0)
files = [open(folder + name).read().strip() for name in ("device", "revision", "vbnv")]
files.append(open("/sys/module/amdxdna/version").read().strip())
info = pyxrt.xrt_info_device
print(json.dumps([d.get_info(info.bdf), d.get_info(info.name), *files]))
"""
    options = {
        "pci_address": "0000:01:00.1",
        "pci_id": "0x17f0",
        "revision": "0x10",
        "vbnv": "NPU Strix",
        "driver_version": "2.20.0,abc",
        "firmware": "1.0.0.63",
    }
    assert emulator.value(code, **options) == [
        "0000:01:00.1",
        "NPU Strix",
        "0x17f0",
        "0x10",
        "NPU Strix",
        "2.20.0,abc",
    ]
    report = subprocess.run(
        emulator.command("xrt-smi", "examine", **options),
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "1.0.0.63" in report
    assert "NPU Strix" in report


def test_trace_and_counters(emulator: Emulator, xclbin: Path) -> None:
    """The trace names ioctls, packets and operations; the counters are written at any end."""
    trace, stats = emulator.folder / "trace", emulator.folder / "stats"
    code = """
g = Gemm(sys.argv[1])
g.whole()
os._exit(0)
"""
    emulator.output(code, xclbin, trace=trace, stats=stats)
    lines = trace.read_text()
    for part in ("CREATE_BO type 3", "EXEC_CMD", "launch 1", "wait for S2MM 0", "state 4"):
        assert part in lines
    counts = stats.read_text()
    assert counts.count("\n") == 1
    assert '"launches": 1, "completed": 1, "failed": 0' in counts


def test_counters_return_to_nothing(emulator: Emulator, xclbin: Path) -> None:
    """Buffers and contexts that are gone are counted as gone, and their bytes too."""
    code = """
device = pyxrt.device(0)
before = counters()
for _ in range(3):
    g = Gemm(sys.argv[1])
    g.whole()
    alive = counters()
    del g
after = counters()
names = ["host_only_bos", "cacheable_bos", "contexts", "bo_bytes", "heap_used_bytes"]
print(json.dumps([[c[n] - before[n] for n in names] for c in (alive, after)]))
"""
    alive, after = emulator.value(code, xclbin)
    assert alive[:3] == [3, 2, 1]
    assert alive[3] >= 3 * 4096
    assert alive[4] == (2 + 4) * 32768
    assert after == [0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "flags",
    [["--nonsense", "1"], ["--faults", "0:error"], ["--faults", "1:never"], ["--contexts", "x"]],
)
def test_wrong_options_are_refused(emulator: Emulator, flags: list[str]) -> None:
    """A test that asks for a fault must not pass without it."""
    command = emulator.command()
    done = subprocess.run(
        [command[0], *flags, "python", "-c", "pass"], env=environment(), capture_output=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"npu_emulator: ")


def test_xclbins_are_reproducible(emulator: Emulator, xclbin: Path) -> None:
    again = emulator.folder / "again.xclbin"
    build = Path(emulator.command()[0]).parent / "build_xclbin.py"
    subprocess.run(
        emulator.command("python", build, "gemm_int8", "64x64x64", again),
        env=environment(),
        check=True,
    )
    assert again.read_bytes() == xclbin.read_bytes()
