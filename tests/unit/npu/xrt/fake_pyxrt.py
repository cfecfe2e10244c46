"""A stand-in for pyxrt where XRT is not installed: the behaviour measured on XRT 2.25.

Its launches compute nothing: they fill the output with the number of the launch. A buffer that is
freed is overwritten, a run that is dropped before its end is noted in ``aborted``.
"""

from __future__ import annotations

import enum
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

FREED = 0xDD
SCALARS = (0, 2)
HEAP_GRANULE = 32 << 10


class State(enum.IntEnum):
    ERT_CMD_STATE_NEW = 1
    ERT_CMD_STATE_COMPLETED = 4
    ERT_CMD_STATE_ERROR = 5
    ERT_CMD_STATE_ABORT = 6
    ERT_CMD_STATE_SUBMITTED = 7
    ERT_CMD_STATE_TIMEOUT = 8


class Direction(enum.Enum):
    XCL_BO_SYNC_BO_TO_DEVICE = 0
    XCL_BO_SYNC_BO_FROM_DEVICE = 1


def ioctl_failed(name: str, code: int) -> RuntimeError:
    return RuntimeError(f"DRM_IOCTL_AMDXDNA_{name} IOCTL failed (err=-{code}): in words")


class FakePyxrt:
    """The module. ``states``: how the launches end, in their order; None never does."""

    xclBOSyncDirection = Direction

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.states: list[State | None] = []
        self.polls_until_over = 3
        self.polling: Callable[[], None] = lambda: None
        self.aborted = 0
        self.started = 0
        self.context_limit = 16
        self.context_code = 28
        self.ends_break_others = False
        self.contexts: weakref.WeakSet[Context] = weakref.WeakSet()
        self.foreign_contexts = 0
        self.live_bos: dict[str, int] = {"host_only": 0, "cacheable": 0}
        self.heap_bytes = 64 << 20
        self.lost = False
        module = self
        self.bo = type("bo", (Bo,), {"module": module})
        self.device = lambda index: Handle(module, index)
        self.hw_context = lambda device, uuid: Context(module, uuid)
        self.kernel = lambda context, name: Kernel(module, context, name)
        self.run = lambda kernel: Run(module, kernel)
        self.xclbin = Xclbin

    def ioctl(self, name: str) -> None:
        if self.lost:
            raise ioctl_failed(name, 19)

    def count(self, event: str) -> int:
        return sum(entry[0] == event for entry in self.log)

    def ends(self) -> Iterator[State | None]:
        while True:
            yield self.states.pop(0) if self.states else State.ERT_CMD_STATE_COMPLETED


class Handle:
    def __init__(self, module: FakePyxrt, index: int) -> None:
        self.module = module

    def register_xclbin(self, xclbin: Xclbin) -> None:
        xclbin.registered = True


class Xclbin:
    def __init__(self, path: str) -> None:
        self.registered = False

    def get_uuid(self) -> str:
        assert self.registered
        return "uuid"


class Context:
    def __init__(self, module: FakePyxrt, uuid: str) -> None:
        self.module = module
        module.ioctl("CREATE_HWCTX")
        if len(module.contexts) + module.foreign_contexts >= module.context_limit:
            raise ioctl_failed("CREATE_HWCTX", module.context_code)
        self.broken = False
        module.contexts.add(self)
        module.log.append(("context",))

    def __del__(self) -> None:
        # Kernels and runs refer to their context, so that it ends with the last of them.
        if self in self.module.contexts:
            self.module.contexts.remove(self)
            for other in self.module.contexts if self.module.ends_break_others else ():
                other.broken = True


class Kernel:
    def __init__(self, module: FakePyxrt, context: Context, name: str) -> None:
        if name != "MLIR_AIE":
            raise RuntimeError(f"No such kernel '{name}': Invalid argument")
        self.module, self.context = module, context

    def group_id(self, index: int) -> int:
        if index not in range(8):
            raise IndexError(index)
        return 0x1FFFF if index in SCALARS else 0x10001 if index == 1 else 0x10000


class Bo:
    module: FakePyxrt
    host_only = "host_only"
    cacheable = "cacheable"

    def __init__(self, device: Handle | None, size: int, flags: str, group: int) -> None:
        assert isinstance(device, Handle)
        self.flags = ""
        self.module.ioctl("CREATE_BO")
        granules = -(-size // HEAP_GRANULE) * HEAP_GRANULE
        if flags == "cacheable":
            if granules > self.module.heap_bytes:
                raise ioctl_failed("CREATE_BO", 28)
            self.module.heap_bytes -= granules
        self.flags, self.group, self.size = flags, group & 0xFFFF, size
        self.host = np.zeros(size, np.uint8)
        self.device_side = np.full(size, 0xA5, np.uint8)
        self.module.live_bos[flags] += 1
        self.module.log.append(("bo", flags, group, size))

    def map(self) -> memoryview:
        # As pyxrt's: the view does not keep the bo.
        return memoryview(self.host)

    def sync(self, direction: Direction) -> None:
        self.module.ioctl("SYNC_BO")
        if direction is Direction.XCL_BO_SYNC_BO_TO_DEVICE:
            self.device_side[:] = self.host
        else:
            self.host[:] = self.device_side

    def __del__(self) -> None:
        if self.flags:
            self.host[:] = FREED
            self.module.live_bos[self.flags] -= 1
            if self.flags == "cacheable":
                self.module.heap_bytes += -(-self.size // HEAP_GRANULE) * HEAP_GRANULE


class Run:
    def __init__(self, module: FakePyxrt, kernel: Kernel) -> None:
        self.module, self.kernel = module, kernel
        self.arguments: dict[int, Any] = {}
        self.end: State | None = State.ERT_CMD_STATE_NEW
        self.polls_left = 0
        self.spoilt = False
        module.log.append(("run",))

    def set_arg(self, index: int, value: Any) -> None:
        if not 0 <= index < 8:
            raise IndexError(index)
        if isinstance(value, Bo):
            if value.group != (1 if index == 1 else 0):
                raise RuntimeError("No host side buffer in destination buffer: Invalid argument")
        elif not isinstance(value, int):
            raise TypeError(f"set_arg(): incompatible function arguments: {value!r}")
        self.arguments[index] = value
        self.module.log.append(("set_arg", index, value))

    def start(self) -> None:
        module = self.module
        module.ioctl("EXEC_CMD")
        if self.kernel.context.broken:
            raise ioctl_failed("EXEC_CMD", 2)
        assert self.arguments[0] == 3
        assert 4 * self.arguments[2] == self.arguments[1].size
        module.started += 1
        module.log.append(("start",))
        self.end = next(module.ends())
        if self.spoilt:
            self.end = State.ERT_CMD_STATE_ERROR
        self.polls_left = module.polls_until_over
        if self.end == State.ERT_CMD_STATE_COMPLETED:
            self.arguments[5].device_side[:] = module.started
        elif self.end is not None:
            self.spoilt = True

    def state(self) -> State:
        self.module.polling()
        if self.end is None or self.polls_left > 0:
            self.polls_left -= 1
            return State.ERT_CMD_STATE_NEW
        return self.end

    def wait(self, *_: int) -> None:
        raise AssertionError("pyxrt's wait holds the GIL and has no time limit")

    def __del__(self) -> None:
        if self.end is None or self.polls_left > 0:
            self.module.aborted += 1
