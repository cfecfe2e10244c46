"""What this machine has of an NPU: hardware, driver, device node and pyxrt.

Everything is read below a root folder, so that tests can bring their own.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from whisper_npu.backends.npu.device import DeviceIdentity, NoDevice

ROOT = Path("/")

VENDOR = "1022"
# By PCI device: the NPU and the processors it is in.
NPUS = {
    "1502": "npu1 (Phoenix, Hawk Point)",
    "17f0": "npu4 to npu6 (Strix, Strix Halo, Krackan)",
}
# On npu1 the end of one context breaks the others of the process.
PHOENIX = f"{VENDOR}:1502"

OLDEST_XRT = (2, 20)

_MAX_READ = 4096


@dataclass(frozen=True)
class Npu:
    """An NPU on the PCI bus.

    ``driver`` is the driver bound to it and ``node`` its device file, None if there is none.
    ``name`` and ``firmware`` are what the driver says, empty if it does not.
    """

    address: str
    pci_id: str
    revision: str
    driver: str | None
    node: str | None
    name: str
    firmware: str


def find_npus(root: Path = ROOT) -> list[Npu]:
    """All NPUs, in the order of their PCI addresses."""
    found = []
    for folder in _folders(root / "sys/bus/pci/devices"):
        vendor, device = (_hexadecimal(folder / name) for name in ("vendor", "device"))
        if vendor != VENDOR or device not in NPUS:
            continue
        driver = folder / "driver"
        node = next((f"/dev/accel/{accel.name}" for accel in _folders(folder / "accel")), None)
        found.append(
            Npu(
                address=folder.name,
                pci_id=f"{vendor}:{device}",
                revision=_hexadecimal(folder / "revision"),
                driver=os.path.basename(os.readlink(driver)) if driver.is_symlink() else None,
                node=node,
                name=_line(folder / "vbnv"),
                firmware=_line(folder / "fw_version"),
            )
        )
    return found


def driver_version(root: Path = ROOT) -> str | None:
    """Version of the loaded driver, None if it is not loaded.

    A driver that is part of the kernel has no version of its own, but the kernel's.
    """
    if not (root / "sys/module/amdxdna").is_dir():
        return None
    version = _line(root / "sys/module/amdxdna/version")
    return version or f"of Linux {platform.release()}"


def holders(node: str, root: Path = ROOT) -> list[str]:
    """Other processes that have a device file open, as far as this user may see them."""
    found = []
    for folder in _folders(root / "proc"):
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        try:
            links = [os.readlink(link) for link in (folder / "fd").iterdir()]
        except OSError:
            # It has ended, or is another user's.
            continue
        if any(link.endswith(node) for link in links):
            found.append(f"{_line(folder / 'comm') or 'a program'} (process {folder.name})")
    return found


def import_pyxrt() -> Any:
    """The module pyxrt. Raises NoDevice."""
    try:
        return import_module("pyxrt")
    except ImportError as error:
        raise NoDevice(
            f"AMD's Python module pyxrt cannot be imported ({error}); run: whisper-npu doctor"
        ) from error


def identify(pyxrt: Any, device: Any, root: Path = ROOT) -> tuple[Npu, DeviceIdentity]:
    """What an open pyxrt.device is. Raises NoDevice if it is not an NPU that we know."""
    info = pyxrt.xrt_info_device
    address = device.get_info(info.bdf)
    npu = next((npu for npu in find_npus(root) if npu.address == address), None)
    if npu is None:
        name = device.get_info(info.name)
        raise NoDevice(f"XRT's device {name} at {address} is not an NPU that whisper-npu knows")
    identity = DeviceIdentity(
        name=npu.name or device.get_info(info.name),
        pci_id=f"{npu.pci_id} rev {npu.revision}",
        firmware=npu.firmware or "unknown",
        driver=f"{npu.driver} {driver_version(root)}",
        xrt=_xrt_version(device.get_info(info.host)),
    )
    return npu, identity


def too_old(xrt: str) -> bool:
    """Whether a version of XRT is older than the oldest that is supported. Unknown ones are not."""
    numbers = re.match(r"(\d+)\.(\d+)", xrt)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) < OLDEST_XRT


def _xrt_version(host: str) -> str:
    try:
        return str(json.loads(host)["version"])
    except (ValueError, KeyError, TypeError):
        return "unknown"


def _folders(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except OSError:
        return


def _line(file: Path) -> str:
    """The text of a one-line file, empty if there is no such file."""
    try:
        with file.open("rb") as stream:
            return stream.read(_MAX_READ).decode("ascii", "replace").strip()
    except OSError:
        return ""


def _hexadecimal(file: Path) -> str:
    """ "0x1502" as "1502"."""
    return _line(file).removeprefix("0x").lower()
