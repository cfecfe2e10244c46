"""What kernels share of an open NPU: pyxrt's handle, memory, contexts, and whether it is alive."""

from __future__ import annotations

import atexit
import errno
import os
import weakref
from threading import RLock
from typing import Any

from whisper_npu.backends.npu.device import DeviceIdentity, DeviceLost
from whisper_npu.backends.npu.xrt.buffers import Pool
from whisper_npu.backends.npu.xrt.contexts import Contexts
from whisper_npu.backends.npu.xrt.detect import PHOENIX, Npu, holders
from whisper_npu.backends.npu.xrt.pyxrt_errors import PYXRT_ERRORS, code, lost

_SMALLEST_BO = 4096
# Bank 1, where instructions go; the NPU's heap.
_HEAP_GROUP = 1


class OpenNpu:
    """An NPU that pyxrt has opened. ``lock`` is held by whoever launches or makes contexts."""

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


_open_devices: weakref.WeakSet[OpenNpu] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Before the interpreter takes its modules apart in an order of its own."""
    for device in list(_open_devices):
        device.close()
