"""What an NPU needs to be usable, looked at one by one, with what to do about each."""

from __future__ import annotations

import os
import platform
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whisper_npu.backends.npu.device import DeviceIdentity
from whisper_npu.backends.npu.xrt.detect import (
    NPUS,
    OLDEST_XRT,
    ROOT,
    Npu,
    driver_version,
    find_npus,
    import_pyxrt,
    too_old,
)
from whisper_npu.backends.npu.xrt.device import open_device
from whisper_npu.backends.npu.xrt.pyxrt_errors import DOCTOR, LOCKED_MEMORY
from whisper_npu.errors import KernelError

# XRT locks this much when it opens an NPU.
_HEAP_BYTES = 64 << 20

_PYXRT_PLACES = (
    "usr/lib/python3/dist-packages",
    "usr/lib/python3*/dist-packages",
    "usr/local/lib/python3*/dist-packages",
    "usr/lib*/python3*/site-packages",
    "opt/xilinx/xrt/python",
)
_CAPABILITIES = re.compile(r"^CapEff:\s*([0-9a-f]+)$", re.MULTILINE)
_CAP_IPC_LOCK = 14
_MORE_LOCKED_MEMORY = (
    "echo '* - memlock unlimited' | sudo tee /etc/security/limits.d/99-npu.conf, then log out and "
    "in again; in a container --ulimit memlock=-1"
)
_BUILT_FOR = re.compile(r"cpython-3(\d+)")
_CORE_LIBRARY = re.compile(r"\S*/libxrt_coreutil\.so[\w.]*")
_PLUGIN = "libxrt_driver_xdna.so.2*"

Python = tuple[int, int]


@dataclass(frozen=True)
class Check:
    """One thing looked at. ``ok`` is None where something else has to be right first, or
    where it cannot be known.

    ``found`` is what there is, ``fix`` what to do about it, empty if nothing.
    """

    name: str
    ok: bool | None
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Host:
    """Where the checks look; tests bring their own."""

    root: Path = ROOT
    python: Python = sys.version_info[:2]
    may_open: Callable[[Path], bool] = lambda node: os.access(node, os.R_OK | os.W_OK)
    # Bytes of locked memory, None for as much as there is. Raises ImportError or AttributeError
    # where the system does not say.
    locked_bytes: Callable[[], int | None] = field(default=lambda: _locked_bytes())
    import_pyxrt: Callable[[], Any] = import_pyxrt
    identity: Callable[[], DeviceIdentity] = field(default=lambda: _identity())


@dataclass(frozen=True)
class Diagnosis:
    """All checks, and the NPU that was opened, None if none could be."""

    checks: tuple[Check, ...]
    identity: DeviceIdentity | None

    @property
    def usable(self) -> bool:
        return self.identity is not None


def diagnose(machine: Host | None = None) -> Diagnosis:
    """Look at everything, and open the NPU as the last of it."""
    machine = machine or Host()
    npus = find_npus(machine.root)
    npu = npus[0] if npus else None
    checks = [
        _processor(npu),
        _driver(npu, machine),
        *_node(npu, machine),
        _locked_memory(machine),
        *_software(machine),
    ]
    identity = None
    # Without pyxrt there is nothing to open it with.
    if all(check.ok for check in checks if check.name in ("pyxrt", "XRT")):
        try:
            identity = machine.identity()
            checks.append(Check("open", True, f"{identity.name}, firmware {identity.firmware}"))
        except KernelError as error:
            # The rest of what it says is to run this command.
            found = str(error).removesuffix(f"; {DOCTOR}")
            checks.append(Check("open", False, found, _advice(checks, found)))
    else:
        checks.append(Check("open", None, "not tried"))
    return Diagnosis(tuple(checks), identity)


def _processor(npu: Npu | None) -> Check:
    if npu is None:
        known = "; ".join(f"1022:{device} is {name}" for device, name in NPUS.items())
        return Check(
            "device",
            False,
            f"no NPU on the PCI bus ({known})",
            "on a processor that has one, enable it in the firmware set-up (NPU, IPU); a virtual "
            "machine has none",
        )
    name = npu.name or NPUS[npu.pci_id.partition(":")[2]]
    return Check("device", True, f"{name}, {npu.pci_id} rev {npu.revision}, at {npu.address}")


def _driver(npu: Npu | None, machine: Host) -> Check:
    version = driver_version(machine.root)
    if version is None:
        return Check(
            "driver",
            False,
            "amdxdna is not loaded",
            "sudo modprobe amdxdna; it is part of Linux 6.14 and later (this is "
            f"{platform.release()}), for others install AMD's xdna-driver package",
        )
    if npu is not None and npu.driver != "amdxdna":
        return Check(
            "driver",
            False,
            f"amdxdna {version} is loaded, but the NPU's driver is {npu.driver or 'none'}",
            "see what the driver says: sudo dmesg | grep amdxdna; firmware files that are missing "
            "come with the package linux-firmware",
        )
    return Check("driver", True, f"amdxdna {version}")


def _node(npu: Npu | None, machine: Host) -> Iterator[Check]:
    name = "device file"
    if npu is None or npu.driver is None:
        yield Check(name, None, "needs device and driver")
        return
    if npu.node is None or not (machine.root / npu.node.lstrip("/")).exists():
        yield Check(
            name,
            False,
            f"{npu.node or '/dev/accel/accel0'} does not exist",
            "in a container pass it on (--device /dev/accel/accel0); else load the driver again: "
            "sudo modprobe -r amdxdna; sudo modprobe amdxdna",
        )
    elif not machine.may_open(machine.root / npu.node.lstrip("/")):
        yield Check(
            name,
            False,
            f"no permission to read and write {npu.node}",
            "sudo usermod -aG render $USER, then log out and in again",
        )
    else:
        yield Check(name, True, npu.node)


def _locked_memory(machine: Host) -> Check:
    name = "locked memory"
    try:
        limit = machine.locked_bytes()
    except (ImportError, AttributeError):
        return Check(name, None, "this system does not say how much a program may lock")
    if limit is None:
        return Check(name, True, "not limited")
    found = f"limited to {limit >> 20} MiB"
    if limit < _HEAP_BYTES:
        return Check(name, False, f"{found}; the NPU's heap alone has 64 MiB", _MORE_LOCKED_MEMORY)
    return Check(name, True, f"{found}, which has to hold 64 MiB and all weights and activations")


def _software(machine: Host) -> Iterator[Check]:
    try:
        module = machine.import_pyxrt()
    except KernelError as error:
        yield _missing_pyxrt(machine, error)
        yield Check("XRT", None, "needs pyxrt")
        return
    place = getattr(module, "__file__", None) or "built in"
    yield Check("pyxrt", True, str(place))
    yield _xrt(machine.root)


def _missing_pyxrt(machine: Host, error: KernelError) -> Check:
    this = _dotted(machine.python)
    builds = list(_pyxrt_builds(machine.root))
    here = [path for path, python in builds if python in (None, machine.python)]
    if not builds:
        return Check(
            "pyxrt",
            False,
            "not installed",
            "Debian, Ubuntu: sudo apt install python3-xrt libxrt-npu2; others: AMD's XRT and its "
            "NPU plug-in (https://github.com/amd/xdna-driver)",
        )
    if not here:
        there = sorted({python for _, python in builds if python})
        versions = ", ".join(map(_dotted, there))
        return Check(
            "pyxrt",
            False,
            f"{builds[0][0]} is for Python {versions}, this is Python {this}",
            f"use that Python: python{_dotted(there[-1])} -m venv --system-site-packages VENV, and "
            "install whisper-npu in it",
        )
    folder = here[0].parent
    if isinstance(error.__cause__, ModuleNotFoundError):
        site = sysconfig.get_path("purelib")
        return Check(
            "pyxrt",
            False,
            f"{here[0]} is not seen by this Python ({sys.prefix})",
            f"echo {folder} > {site}/xrt.pth; or make the virtual environment with "
            "--system-site-packages",
        )
    return Check(
        "pyxrt",
        False,
        f"{here[0]} does not load: {error.__cause__}",
        "install XRT of the same version; AMD's own: source /opt/xilinx/xrt/setup.sh first",
    )


def _pyxrt_builds(root: Path) -> Iterator[tuple[Path, Python | None]]:
    """Files of pyxrt on this machine with the Python that each is for, if its name tells."""
    for place in _PYXRT_PLACES:
        for path in sorted(root.glob(f"{place}/pyxrt*.so")):
            tag = _BUILT_FOR.search(path.name)
            yield path, (3, int(tag[1])) if tag else None


def _xrt(root: Path) -> Check:
    """The XRT that pyxrt has loaded, from the name of its library."""
    maps = root / "proc/self/maps"
    found = _CORE_LIBRARY.search(maps.read_text(errors="replace")) if maps.exists() else None
    if found is None:
        return Check("XRT", True, "version unknown until the NPU opens")
    library = Path(found[0])
    file = root / str(library).lstrip("/")
    version = file.name.partition(".so.")[2] or "unknown"
    if too_old(version):
        oldest = _dotted(OLDEST_XRT)
        return Check(
            "XRT", False, f"version {version} is too old", f"install XRT {oldest} or later"
        )
    if not any(file.parent.glob(_PLUGIN)):
        return Check(
            "XRT",
            False,
            f"version {version} in {library.parent} has no NPU plug-in",
            "Debian, Ubuntu: sudo apt install libxrt-npu2; others: AMD's xrt_plugin-amdxdna",
        )
    return Check("XRT", True, f"version {version} in {library.parent}")


def _advice(checks: list[Check], found: str) -> str:
    wrong = [check.name for check in checks if check.ok is False]
    if wrong:
        return f"put {', '.join(wrong)} right first"
    if found.startswith(LOCKED_MEMORY):
        return _MORE_LOCKED_MEMORY
    return "see what the driver says: sudo dmesg | grep amdxdna"


def _identity() -> DeviceIdentity:
    device = open_device()
    try:
        return device.identity
    finally:
        device.close()


def _locked_bytes() -> int | None:
    # Imported here: not every system has this module, or this limit in it.
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if soft == resource.RLIM_INFINITY or _may_lock_all(ROOT) else soft


def _may_lock_all(root: Path) -> bool:
    """Whether this process may lock what it likes: root may, but not in most containers."""
    status = root / "proc/self/status"
    found = _CAPABILITIES.search(status.read_text(errors="replace")) if status.exists() else None
    return found is not None and bool(int(found[1], 16) >> _CAP_IPC_LOCK & 1)


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
