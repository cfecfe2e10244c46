"""The NPU through pyxrt, as the interface ``whisper_npu.backends.npu.device`` has it."""

from __future__ import annotations

import atexit
import errno
import os
import weakref
from threading import RLock
from typing import Any

from whisper_npu.backends.npu.device import DeviceIdentity, DeviceLost, NoDevice
from whisper_npu.backends.npu.registry import KernelEntry
from whisper_npu.backends.npu.xrt.buffers import Pool
from whisper_npu.backends.npu.xrt.contexts import Contexts
from whisper_npu.backends.npu.xrt.detect import (
    OLDEST_XRT,
    PHOENIX,
    Npu,
    holders,
    identify,
    import_pyxrt,
    too_old,
)
from whisper_npu.backends.npu.xrt.errors import PYXRT_ERRORS, code, lost, no_device
from whisper_npu.backends.npu.xrt.kernel import XrtKernel
from whisper_npu.backends.npu.xrt.lifetime import track

_SMALLEST_BO = 4096
# Bank 1, where instructions go; the NPU's heap.
_HEAP_GROUP = 1


def open_device(
    index: int = 0,
    *,
    launch_timeout_s: float = 30.0,
    context_timeout_s: float = 10.0,
) -> XrtDevice:
    """Open an NPU.

    A launch that is not over after ``launch_timeout_s`` seconds counts as hung. Where all contexts
    are taken, by other processes that is, a kernel waits ``context_timeout_s`` seconds for one.

    Raises NoDevice, which says what to do.
    """
    pyxrt = import_pyxrt()
    try:
        handle = track(pyxrt.device(index))
        npu, identity = identify(pyxrt, handle)
    except PYXRT_ERRORS as error:
        raise no_device(error) from error
    if too_old(identity.xrt):
        oldest = ".".join(map(str, OLDEST_XRT))
        raise NoDevice(f"XRT {identity.xrt} is too old; install XRT {oldest} or later")
    return XrtDevice(
        pyxrt,
        handle,
        npu,
        identity,
        launch_timeout_s,
        context_timeout_s,
    )


class XrtDevice:
    """An open NPU; see ``whisper_npu.backends.npu.device.Device``.

    May be used from several threads, whose launches take turns, but not in a forked child:
    multiprocessing has to spawn.
    """

    def __init__(
        self,
        pyxrt: Any,
        handle: Any,
        npu: Npu,
        identity: DeviceIdentity,
        launch_timeout_s: float,
        context_timeout_s: float,
    ) -> None:
        self.pyxrt = pyxrt
        self.handle = handle
        self.npu = npu
        self.launch_timeout_s = launch_timeout_s
        self.lock = RLock()
        self.pool = Pool(pyxrt, handle)
        self.contexts = Contexts(
            drain=npu.pci_id == PHOENIX,
            timeout_s=context_timeout_s,
            holders=self._holders,
        )
        self._identity = identity
        self._process = os.getpid()
        self._closed = False
        _open_devices.add(self)

    @property
    def identity(self) -> DeviceIdentity:
        """``pci_id`` has the revision behind it: "1022:1502 rev 00"."""
        return self._identity

    def open(self, entry: KernelEntry) -> XrtKernel:
        """See ``whisper_npu.backends.npu.device.Device``."""
        self.check_open()
        return XrtKernel(self, entry)

    def close(self) -> None:
        """End all contexts. Arrays of buffers stay valid; nothing else does.

        The device file closes with the last buffer.
        """
        if os.getpid() != self._process:
            return
        with self.lock:
            self._closed = True
            self.contexts.close()
            self.pool.close()
            self.handle = None

    def check_open(self) -> None:
        """Raises DeviceLost if the device can no longer be used here."""
        if os.getpid() != self._process:
            raise DeviceLost(
                "the NPU was opened before this process was forked; start workers by spawn instead"
            )
        if self._closed:
            raise DeviceLost("the NPU was closed; open it again")

    def check_alive(self, what: str) -> None:
        """Raises DeviceLost if the driver says "no such device" to everything."""
        try:
            self.pyxrt.bo(self.handle, _SMALLEST_BO, self.pyxrt.bo.cacheable, _HEAP_GROUP)
        except PYXRT_ERRORS as error:
            if code(error) == errno.ENODEV:
                raise lost(what, error) from error

    def _holders(self) -> list[str]:
        """Who else may have contexts."""
        mine = any(device is not self and len(device.contexts) for device in _open_devices)
        here = ["this program (close the transcribers that are not used any more)"] if mine else []
        return here + (holders(self.npu.node) if self.npu.node else [])


_open_devices: weakref.WeakSet[XrtDevice] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Before the interpreter takes its modules apart in an order of its own."""
    for device in list(_open_devices):
        device.close()
