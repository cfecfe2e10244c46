from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from whisper_npu.backends.npu.device import DeviceIdentity, NoDevice
from whisper_npu.backends.npu.xrt.checks import Check, Diagnosis, Host, _may_lock_all, diagnose
from whisper_npu.backends.npu.xrt.detect import driver_version, find_npus, identify, too_old
from whisper_npu.backends.npu.xrt.pyxrt_errors import no_device
from whisper_npu.cli import doctor, main

IDENTITY = DeviceIdentity("RyzenAI-npu1", "1022:1502 rev 00", "1.5", "amdxdna 2.25", "2.25.00")
ADDRESS = "0000:c5:00.1"
NODE = "dev/accel/accel0"
PYXRT = "usr/lib/python3/dist-packages/pyxrt.cpython-312-x86_64-linux-gnu.so"
LIBRARIES = "usr/lib/x86_64-linux-gnu"


def put(root: Path, path: str, text: str = "") -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n")
    return file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with everything."""
    pci = f"sys/bus/pci/devices/{ADDRESS}"
    for name, text in {
        "vendor": "0x1022",
        "device": "0x1502",
        "revision": "0x00",
        "vbnv": "RyzenAI-npu1",
        "fw_version": "1.5.5.391",
        "accel/accel0/dev": "261:0",
    }.items():
        put(tmp_path, f"{pci}/{name}", text)
    for other, vendor, device in (("0000:00:01.0", "0x1022", "0x1630"), ("x", "0x8086", "0x1502")):
        put(tmp_path, f"sys/bus/pci/devices/{other}/vendor", vendor)
        put(tmp_path, f"sys/bus/pci/devices/{other}/device", device)
    (tmp_path / "sys/bus/pci/drivers/amdxdna").mkdir(parents=True)
    (tmp_path / pci / "driver").symlink_to("../../drivers/amdxdna")
    put(tmp_path, "sys/module/amdxdna/version", "2.25.0,0123")
    put(tmp_path, NODE)
    put(tmp_path, PYXRT)
    use_xrt(tmp_path, "2.25.00")
    put(tmp_path, f"{LIBRARIES}/libxrt_driver_xdna.so.2.25.00")
    return tmp_path


def use_xrt(root: Path, version: str) -> None:
    """The XRT that the process has loaded."""
    library = put(root, f"{LIBRARIES}/libxrt_coreutil.so.{version}")
    maps = f"7f00-7f01 r-xp 00000000 08:01 42   /{library.relative_to(root)}\n7f01-7f02 rw-p 0 0 0"
    put(root, "proc/self/maps", maps)


def machine(root: Path, **changes: Any) -> Host:
    parts: dict[str, Any] = {
        "root": root,
        "python": (3, 12),
        "may_open": lambda node: True,
        "locked_bytes": lambda: None,
        "import_pyxrt": lambda: SimpleNamespace(__file__="/" + PYXRT),
        "identity": lambda: IDENTITY,
    }
    return Host(**parts | changes)


def fails(cause: Exception, message: str = "in short") -> Callable[[], Any]:
    def failing() -> Any:
        raise NoDevice(message) from cause

    return failing


NOT_FOUND = fails(ModuleNotFoundError("No module named 'pyxrt'", name="pyxrt"))


def wrong(diagnosis: Diagnosis) -> list[str]:
    assert not diagnosis.usable
    assert all(check.fix for check in diagnosis.checks if check.ok is False)
    return [check.name for check in diagnosis.checks if check.ok is False]


def check(diagnosis: Diagnosis, name: str) -> Check:
    [found] = [check for check in diagnosis.checks if check.name == name]
    return found


def test_everything_is_there(root: Path) -> None:
    diagnosis = diagnose(machine(root))
    assert diagnosis.usable
    assert diagnosis.identity == IDENTITY
    found = {check.name: check.found for check in diagnosis.checks}
    assert all(check.ok for check in diagnosis.checks)
    assert found == {
        "device": f"RyzenAI-npu1, 1022:1502 rev 00, at {ADDRESS}",
        "driver": "amdxdna 2.25.0,0123",
        "device file": "/dev/accel/accel0",
        "locked memory": "not limited",
        "pyxrt": "/" + PYXRT,
        "XRT": "version 2.25.00 in /usr/lib/x86_64-linux-gnu",
        "open": "RyzenAI-npu1, firmware 1.5",
    }


def test_nothing_is_there(tmp_path: Path) -> None:
    diagnosis = diagnose(machine(tmp_path, import_pyxrt=NOT_FOUND, identity=None))
    assert wrong(diagnosis) == ["device", "driver", "pyxrt"]
    assert check(diagnosis, "device file").ok is None
    assert check(diagnosis, "open").ok is None
    assert "apt install python3-xrt" in check(diagnosis, "pyxrt").fix


def test_driver(root: Path) -> None:
    (root / f"sys/bus/pci/devices/{ADDRESS}/driver").unlink()
    no_device = {"identity": fails(RuntimeError())}
    diagnosis = diagnose(machine(root, **no_device))
    assert wrong(diagnosis) == ["driver", "open"]
    assert "the NPU's driver is none" in check(diagnosis, "driver").found
    assert check(diagnosis, "device file").ok is None
    assert check(diagnosis, "open").fix == "put driver right first"
    (root / "sys/module/amdxdna/version").unlink()
    (root / "sys/module/amdxdna").rmdir()
    diagnosis = diagnose(machine(root, **no_device))
    assert check(diagnosis, "driver").found == "amdxdna is not loaded"
    assert "modprobe amdxdna" in check(diagnosis, "driver").fix


def test_device_file(root: Path) -> None:
    asked: list[Path] = []

    def may_open(node: Path) -> bool:
        asked.append(node)
        return False

    no_device = {"identity": fails(RuntimeError())}
    diagnosis = diagnose(machine(root, may_open=may_open, **no_device))
    assert wrong(diagnosis) == ["device file", "open"]
    assert asked == [root / NODE]
    assert (
        "no permission to read and write /dev/accel/accel0" in check(diagnosis, "device file").found
    )
    assert "usermod -aG render" in check(diagnosis, "device file").fix
    (root / NODE).unlink()
    diagnosis = diagnose(machine(root, **no_device))
    assert check(diagnosis, "device file").found == "/dev/accel/accel0 does not exist"


def test_locked_memory(root: Path) -> None:
    small = machine(root, locked_bytes=lambda: (64 << 20) - 1, identity=fails(RuntimeError()))
    diagnosis = diagnose(small)
    assert wrong(diagnosis) == ["locked memory", "open"]
    assert "memlock" in check(diagnosis, "locked memory").fix
    diagnosis = diagnose(machine(root, locked_bytes=lambda: 64 << 20))
    assert diagnosis.usable
    found = check(diagnosis, "locked memory")
    assert found.ok
    assert "limited to 64 MiB" in found.found
    diagnosis = diagnose(machine(root, locked_bytes=lambda: import_module("no_such_module")))
    assert diagnosis.usable
    assert check(diagnosis, "locked memory").ok is None


def test_pyxrt_outside_of_the_virtual_environment(root: Path) -> None:
    found = check(diagnose(machine(root, import_pyxrt=NOT_FOUND)), "pyxrt")
    assert str(root / PYXRT) in found.found
    assert "is not seen by this Python" in found.found
    assert f"echo {(root / PYXRT).parent} > " in found.fix
    assert "--system-site-packages" in found.fix


def test_pyxrt_for_another_python(root: Path) -> None:
    diagnosis = diagnose(machine(root, import_pyxrt=NOT_FOUND, python=(3, 11)))
    assert wrong(diagnosis) == ["pyxrt"]
    found = check(diagnosis, "pyxrt")
    assert "is for Python 3.12, this is Python 3.11" in found.found
    assert "python3.12 -m venv --system-site-packages" in found.fix


def test_pyxrt_without_a_tag(root: Path) -> None:
    """AMD's installer has such a file; it may be for any Python."""
    (root / PYXRT).unlink()
    put(root, "opt/xilinx/xrt/python/pyxrt.so")
    found = check(diagnose(machine(root, import_pyxrt=NOT_FOUND)), "pyxrt")
    assert "opt/xilinx/xrt/python/pyxrt.so is not seen" in found.found


def test_pyxrt_that_does_not_load(root: Path) -> None:
    broken = fails(ImportError("libxrt_coreutil.so.2: cannot open shared object file"))
    found = check(diagnose(machine(root, import_pyxrt=broken)), "pyxrt")
    assert "does not load: libxrt_coreutil.so.2: cannot open" in found.found


def test_xrt(root: Path) -> None:
    use_xrt(root, "2.19.194")
    diagnosis = diagnose(machine(root))
    assert wrong(diagnosis) == ["XRT"]
    assert "2.19.194 is too old" in check(diagnosis, "XRT").found
    assert "2.20 or later" in check(diagnosis, "XRT").fix
    use_xrt(root, "2.20.197")
    assert diagnose(machine(root)).usable
    (root / f"{LIBRARIES}/libxrt_driver_xdna.so.2.25.00").unlink()
    diagnosis = diagnose(machine(root))
    assert wrong(diagnosis) == ["XRT"]
    assert "no NPU plug-in" in check(diagnosis, "XRT").found
    assert "libxrt-npu2" in check(diagnosis, "XRT").fix


def test_device_that_does_not_open(root: Path) -> None:
    diagnosis = diagnose(machine(root, identity=fails(RuntimeError(), "what XRT says")))
    assert wrong(diagnosis) == ["open"]
    assert check(diagnosis, "open").found == "what XRT says"
    assert "dmesg" in check(diagnosis, "open").fix


def test_what_xrt_says_of_locked_memory(root: Path) -> None:
    """Where the limit is not this process's own, the answer of the driver counts."""
    error = no_device(RuntimeError("mmap(len=67108864) failed (err=-11): try again"))
    diagnosis = diagnose(
        machine(root, locked_bytes=lambda: None, identity=fails(error, str(error)))
    )
    assert wrong(diagnosis) == ["open"]
    found = check(diagnosis, "open")
    assert found.found.startswith("locked memory (ulimit -l) is limited to less than ")
    # That is what is being run.
    assert "doctor" not in found.found
    assert "memlock" in found.fix


@pytest.mark.parametrize(
    ("status", "may"),
    [
        ("Name:\tx\nCapEff:\t000001ffffffffff\nSeccomp:\t0\n", True),
        # Root in a container.
        ("CapPrm:\t000001ffffffffff\nCapEff:\t00000000a80425fb\n", False),
        ("CapEff:\t0000000000000000\n", False),
        ("Name:\tx\n", False),
    ],
)
def test_who_may_lock_memory(tmp_path: Path, status: str, may: bool) -> None:
    put(tmp_path, "proc/self/status", status)
    assert _may_lock_all(tmp_path) is may
    assert not _may_lock_all(tmp_path / "nowhere")


def test_versions() -> None:
    assert too_old("2.19.99")
    assert too_old("1.99")
    assert not too_old("2.20.0")
    assert not too_old("3.0")
    assert not too_old("unknown")


def test_strix(root: Path) -> None:
    pci = f"sys/bus/pci/devices/{ADDRESS}"
    put(root, f"{pci}/device", "0x17f0")
    put(root, f"{pci}/revision", "0x10")
    (root / pci / "vbnv").unlink()
    [npu] = find_npus(root)
    assert (npu.pci_id, npu.revision, npu.name) == ("1022:17f0", "10", "")
    assert "Strix" in check(diagnose(machine(root)), "device").found


def test_driver_of_the_kernel(root: Path) -> None:
    """It has no version of its own."""
    (root / "sys/module/amdxdna/version").unlink()
    version = driver_version(root)
    assert version is not None
    assert version.startswith("of Linux ")


def test_identity(root: Path) -> None:
    info = {
        "bdf": ADDRESS,
        "name": "RyzenAI-npu1",
        "host": json.dumps({"version": "2.25.00", "branch": ""}),
    }
    pyxrt = SimpleNamespace(xrt_info_device=SimpleNamespace(**{name: name for name in info}))
    device = SimpleNamespace(get_info=info.__getitem__)
    npu, identity = identify(pyxrt, device, root)
    assert npu.node == "/dev/accel/accel0"
    assert identity == DeviceIdentity(
        "RyzenAI-npu1", "1022:1502 rev 00", "1.5.5.391", "amdxdna 2.25.0,0123", "2.25.00"
    )
    info["host"] = "not JSON"
    assert identify(pyxrt, device, root)[1].xrt == "unknown"
    info["bdf"] = "0000:01:00.0"
    with pytest.raises(NoDevice, match=r"0000:01:00\.0 is not an NPU"):
        identify(pyxrt, device, root)


def test_command(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "diagnose", lambda: diagnose(machine(root)))
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    first = " ".join(out.splitlines()[0].split())
    assert first == f"ok device RyzenAI-npu1, 1022:1502 rev 00, at {ADDRESS}"
    assert "\nThe NPU is usable.\n" in out
    assert main(["doctor", "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["usable"] is True
    assert document["identity"]["xrt"] == "2.25.00"
    assert document["checks"][0]["name"] == "device"

    broken = machine(root, import_pyxrt=NOT_FOUND)
    monkeypatch.setattr(doctor, "diagnose", lambda: diagnose(broken))
    assert main(["doctor"]) == 5
    out = capsys.readouterr().out
    assert "WRONG  pyxrt" in out
    assert "-> echo " in out
    assert "\nNo usable NPU (1 wrong).\n" in out
    assert main(["doctor", "--format", "json"]) == 5
    document = json.loads(capsys.readouterr().out)
    assert document["usable"] is False
    assert document["identity"] is None


def test_command_anywhere() -> None:
    """With whatever this machine has: an answer, and one of the two exit codes."""
    assert main(["doctor"]) in (0, 5)
