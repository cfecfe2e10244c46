"""pyxrt's errors as those of ``whisper_npu.backends.npu.device``.

All of pyxrt's errors are RuntimeErrors (IndexError for a C++ ``out_of_range``); the number of the
system's error is in the text, ``(err=-28)``, with either sign.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable

from whisper_npu.backends.npu.device import (
    BufferRefused,
    DeviceError,
    DeviceLost,
    LaunchFailed,
    NoContext,
    NoDevice,
)
from whisper_npu.errors import KernelError

# What pybind11 lets through. TypeError: a value that no overload takes.
PYXRT_ERRORS = (RuntimeError, IndexError, TypeError)

# One context too many, in the words of the drivers there are: their own limit, the firmware's, and
# a partition of columns that is in use with another width.
BUSY = frozenset((errno.ENOSPC, errno.ENOENT, errno.ENODEV, errno.EINVAL))

_NO_MEMORY = frozenset((errno.ENOSPC, errno.ENOMEM, errno.EAGAIN))
_CODE = re.compile(r"\(err=-?(\d+)\)")
DOCTOR = "run: whisper-npu doctor"
LOCKED_MEMORY = "locked memory (ulimit -l)"


def code(error: BaseException) -> int | None:
    """The number of the system's error, None if the message has none."""
    found = _CODE.search(str(error))
    return int(found[1]) if found else None


def text(error: BaseException) -> str:
    """The message in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def is_busy(error: BaseException) -> bool:
    """Whether a context was refused because there are too many at this moment."""
    return "CREATE_HWCTX" in str(error) and code(error) in BUSY


def no_device(error: BaseException) -> NoDevice:
    """For a device that does not open."""
    what = {
        errno.EACCES: "no permission to open the NPU",
        errno.EAGAIN: f"{LOCKED_MEMORY} is limited to less than the NPU's heap of 64 MiB",
    }.get(code(error) or 0, "the NPU does not open")
    return NoDevice(f"{what} ({text(error)}); {DOCTOR}")


def lost(what: str, error: BaseException) -> DeviceLost:
    """For a device that has gone."""
    return DeviceLost(f"{what}: the NPU has gone ({text(error)}); start again, or {DOCTOR}")


def context_refused(kernel: str, error: BaseException) -> KernelError:
    """For a context that fails for another reason than too many of them."""
    if code(error) == errno.ENODEV:
        return lost(f"kernel {kernel}", error)
    if code(error) in _NO_MEMORY:
        return BufferRefused(
            f"kernel {kernel}: no room for its configuration in the NPU's memory ({text(error)}); "
            "close other kernels"
        )
    return KernelError(f"kernel {kernel}: XRT does not take its xclbin ({text(error)})")


def no_context(
    kernel: str, error: BaseException, waited_s: float, others: Iterable[str]
) -> NoContext:
    """For contexts that stay taken. ``others`` are processes that have the device open."""
    by = ", ".join(others)
    who = f"by {by}" if by else "by other programs"
    return NoContext(
        f"kernel {kernel}: the NPU's contexts are taken {who}; none was free for {waited_s:g} s "
        f"({text(error)}); end the other program or try again later"
    )


def buffer_refused(what: str, nbytes: int, error: BaseException) -> DeviceError:
    """For a buffer that cannot be had or used."""
    if code(error) == errno.ENODEV:
        return lost(what, error)
    advice = ""
    if code(error) in _NO_MEMORY:
        advice = (
            "; out of locked memory (ulimit -l) or of the NPU's heap of 64 MiB: raise the one, "
            "or close other kernels"
        )
    return BufferRefused(f"{what}: no buffer of {nbytes} bytes ({text(error)}){advice}")


def not_started(kernel: str, error: BaseException) -> DeviceError:
    """For a launch that the driver did not take."""
    if code(error) == errno.ENODEV:
        return lost(f"kernel {kernel}", error)
    return LaunchFailed(f"kernel {kernel}: the launch did not start ({text(error)})")
