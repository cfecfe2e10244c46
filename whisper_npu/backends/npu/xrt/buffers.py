"""Buffer objects (``pyxrt.bo``) and the NumPy arrays that are their memory."""

from __future__ import annotations

from collections import defaultdict
from threading import RLock
from typing import Any

import numpy as np

from whisper_npu.backends.npu.device import U8
from whisper_npu.backends.npu.xrt.lifetime import track
from whisper_npu.backends.npu.xrt.pyxrt_errors import PYXRT_ERRORS, buffer_refused

# What is kept for the next buffer of the same size: a few windows' worth of activations.
_POOL_BYTES = 64 << 20

_BANK_BITS = 0xFFFF


class BoMemory:
    """Owns a bo. Arrays made from it refer to it, so that the bo outlives every view.

    ``bo.map()`` alone does not do that: its memory is gone with the bo.
    """

    def __init__(self, pool: Pool, key: tuple[str, int, int], bo: Any) -> None:
        view = np.frombuffer(bo.map(), np.uint8)
        self.__array_interface__ = view.__array_interface__
        self.bo = bo
        self._pool = pool
        self._key = key

    def __del__(self) -> None:
        # None of it is there if __init__ failed.
        if "_key" in self.__dict__:
            self._pool.give_back(self._key, self.bo)


class Pool:
    """Makes buffer objects, and keeps those that nothing refers to any more for their next use.

    Only the two kinds that an NPU has: "host_only" for data, "cacheable" for instructions.
    """

    def __init__(self, pyxrt: Any, device: Any) -> None:
        self._pyxrt = pyxrt
        self._device = device
        self._free: defaultdict[tuple[str, int, int], list[Any]] = defaultdict(list)
        self._free_bytes = 0
        # The garbage collector may call give_back within any other method.
        self._lock = RLock()

    def take(self, what: str, kind: str, group: int, nbytes: int) -> BoMemory:
        """Memory of ``nbytes`` in a memory group. Its content is undefined.

        Raises BufferRefused and DeviceLost that name ``what`` it was for.
        """
        key = (kind, group & _BANK_BITS, nbytes)
        try:
            return BoMemory(self, key, self._reused(key) or self._made(kind, group, nbytes))
        except PYXRT_ERRORS as error:
            raise buffer_refused(what, nbytes, error) from error

    def give_back(self, key: tuple[str, int, int], bo: Any) -> None:
        """Keep a bo, unless there is enough."""
        with self._lock:
            if self._device is not None and self._free_bytes + key[2] <= _POOL_BYTES:
                self._free[key].append(bo)
                self._free_bytes += key[2]

    def close(self) -> None:
        """Free what is kept, and keep nothing from now on."""
        with self._lock:
            self._device = None
            self._free.clear()

    def _reused(self, key: tuple[str, int, int]) -> Any:
        with self._lock:
            if not self._free[key]:
                return None
            self._free_bytes -= key[2]
            return self._free[key].pop()

    def _made(self, kind: str, group: int, nbytes: int) -> Any:
        try:
            return self._new(kind, group, nbytes)
        except RuntimeError:
            # Perhaps for want of the memory that lies here unused.
            with self._lock:
                if not self._free_bytes:
                    raise
                self._free.clear()
                self._free_bytes = 0
        return self._new(kind, group, nbytes)

    def _new(self, kind: str, group: int, nbytes: int) -> Any:
        bo = self._pyxrt.bo
        return track(bo(self._device, nbytes, getattr(bo, kind), group))


class XrtBuffer:
    """Memory of an argument; see ``whisper_npu.backends.npu.device.Buffer``.

    ``what`` names it in messages. Its memory is freed with the last view of ``array``.
    """

    def __init__(self, pyxrt: Any, memory: BoMemory, what: str, nbytes: int) -> None:
        directions = pyxrt.xclBOSyncDirection
        self._to_device = directions.XCL_BO_SYNC_BO_TO_DEVICE
        self._from_device = directions.XCL_BO_SYNC_BO_FROM_DEVICE
        self.memory = memory
        self.what = what
        self.nbytes = nbytes
        self._array: U8 = np.asarray(memory)

    @property
    def array(self) -> U8:
        return self._array

    def to_device(self) -> None:
        self._sync(self._to_device)

    def from_device(self) -> None:
        self._sync(self._from_device)

    def _sync(self, direction: Any) -> None:
        try:
            self.memory.bo.sync(direction)
        except PYXRT_ERRORS as error:
            raise buffer_refused(self.what, self.nbytes, error) from error
