"""The NPU through pyxrt, as the interface ``whisper_npu.backends.npu.device`` has it."""

from __future__ import annotations

from whisper_npu.backends.npu.device import NoDevice
from whisper_npu.backends.npu.registry import KernelEntry
from whisper_npu.backends.npu.xrt.detect import OLDEST_XRT, identify, import_pyxrt, too_old
from whisper_npu.backends.npu.xrt.kernel import XrtKernel
from whisper_npu.backends.npu.xrt.lifetime import track
from whisper_npu.backends.npu.xrt.open_npu import OpenNpu
from whisper_npu.backends.npu.xrt.pyxrt_errors import PYXRT_ERRORS, no_device


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


class XrtDevice(OpenNpu):
    """An open NPU; see ``whisper_npu.backends.npu.device.Device``.

    May be used from several threads, whose launches take turns, but not in a forked child:
    multiprocessing has to spawn.
    """

    def open(self, entry: KernelEntry) -> XrtKernel:
        """See ``whisper_npu.backends.npu.device.Device``."""
        self.check_open()
        return XrtKernel(self, entry)
