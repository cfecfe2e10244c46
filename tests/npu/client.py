"""What the programs under the emulator share: the INT8 GEMM on bare pyxrt.

Imported with ``*`` by the programs that the tests start, not by the tests.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyxrt

from whisper_npu.backends.npu.families.gemm_stream import gemm_int8_stream

__all__ = [
    "FROM_DEVICE",
    "TO_DEVICE",
    "Gemm",
    "context",
    "counters",
    "gemm_int8_stream",
    "json",
    "message",
    "np",
    "os",
    "poll",
    "pyxrt",
    "sys",
    "time",
]

TO_DEVICE = pyxrt.xclBOSyncDirection.XCL_BO_SYNC_BO_TO_DEVICE
FROM_DEVICE = pyxrt.xclBOSyncDirection.XCL_BO_SYNC_BO_FROM_DEVICE


def context(path: str) -> tuple[pyxrt.device, pyxrt.hw_context]:
    device = pyxrt.device(0)
    xclbin = pyxrt.xclbin(path)
    device.register_xclbin(xclbin)
    return device, pyxrt.hw_context(device, xclbin.get_uuid())


def counters() -> dict[str, int]:
    """The emulator's, at this moment."""
    with open("/sys/module/amdxdna/emulator/counters") as file:
        return json.load(file)


def message(call: Callable[[], object]) -> str:
    """The words of the error that the call raises; empty without one."""
    try:
        call()
    except Exception as error:
        return str(error)
    return ""


def poll(run: pyxrt.run, seconds: float = 10) -> int:
    """The final state of a run, or the state after so long."""
    end = time.monotonic() + seconds
    while int(run.state()) < 4 and time.monotonic() < end:
        time.sleep(0.0005)
    return int(run.state())


class Gemm:
    """C[m, n] = A[m, k] x B[k, n] for random int8, with its buffers in place and nothing synced."""

    def __init__(
        self,
        path: str,
        shape: tuple[int, int, int] = (64, 64, 64),
        tile: tuple[int, int, int] = (64, 64, 64),
        stream: bytes | None = None,
    ) -> None:
        m, k, n = shape
        random = np.random.default_rng(m + k + n)
        self.a = random.integers(-128, 128, (m, k), dtype=np.int8)
        self.b = random.integers(-128, 128, (k, n), dtype=np.int8)
        self.expected = self.a.astype(np.int64) @ self.b.astype(np.int64)
        self.device, self.context = context(path)
        self.kernel = pyxrt.kernel(self.context, "MLIR_AIE")
        self.size = 4 * m * n
        self.instructions = self.instruction_bo(stream or gemm_int8_stream(m, k, n, tile))
        self.buffers = [
            self.bo(np.ascontiguousarray(self.a), 3),
            self.bo(pack(self.b, tile), 4),
            pyxrt.bo(self.device, self.size, pyxrt.bo.host_only, self.kernel.group_id(5)),
        ]
        self.run = pyxrt.run(self.kernel)
        self.set_arguments()

    def bo(self, data: npt.NDArray[np.int8], index: int) -> pyxrt.bo:
        group = self.kernel.group_id(index)
        bo = pyxrt.bo(self.device, data.nbytes, pyxrt.bo.host_only, group)
        bo.write(data.reshape(-1), 0)
        return bo

    def instruction_bo(self, stream: bytes) -> pyxrt.bo:
        group = self.kernel.group_id(1)
        bo = pyxrt.bo(self.device, len(stream), pyxrt.bo.cacheable, group)
        bo.write(stream, 0)
        bo.sync(TO_DEVICE, len(stream), 0)
        self.n_bytes = len(stream)
        return bo

    def set_arguments(self) -> None:
        for i, value in enumerate((3, self.instructions, self.n_bytes, *self.buffers)):
            self.run.set_arg(i, value)

    def sync_in(self) -> None:
        for bo in self.buffers[:2]:
            bo.sync(TO_DEVICE, bo.size(), 0)

    def sync_out(self) -> None:
        self.buffers[2].sync(FROM_DEVICE, self.size, 0)

    def launch(self) -> int:
        """The final state."""
        self.run.start()
        return poll(self.run)

    def result(self) -> npt.NDArray[np.int32]:
        return np.frombuffer(self.buffers[2].read(self.size, 0), np.int32).reshape(
            self.expected.shape
        )

    def right(self) -> bool:
        return np.array_equal(self.result(), self.expected)

    def whole(self) -> bool:
        """Syncs, launches, syncs: is the result right?"""
        self.sync_in()
        state = self.launch()
        self.sync_out()
        return state == 4 and self.right()


def pack(b: npt.NDArray[np.int8], tile: tuple[int, int, int]) -> npt.NDArray[np.int8]:
    """[k, n] -> [n/tn, k/tk, tn/8, tk/8, 8, 8], the layout of kernels/src/README.md."""
    _, tk, tn = tile
    k, n = b.shape
    blocks = b.reshape(k // tk, tk // 8, 8, n // tn, tn // 8, 8).transpose(3, 0, 4, 1, 2, 5)
    return np.ascontiguousarray(blocks)
