"""What our code adds to a launch: the same product by bare pyxrt and by ours, by turns.

    tools/npu_emulator/run python tools/npu_emulator/overhead.py [--rounds 1500]

Both use the same kernel, run objects and buffers that are made once, and wait by polling. Prints
median and least of each, and ratios. On the emulator a launch is the work of this processor; on an
NPU (with plain python there) it is the real thing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import pyxrt

from whisper_npu.backends.npu.families.gemm import FIRST_BUFFER, Gemm, gemm_shape
from whisper_npu.backends.npu.families.gemm_stream import gemm_int8_sizes, gemm_int8_stream
from whisper_npu.backends.npu.families.packing import pack_gemm_weights
from whisper_npu.backends.npu.registry import Entry, load_registry
from whisper_npu.backends.npu.xrt import open_device

KERNEL = "gemm_int8_64x64x64"
SHAPE = (64, 64, 64)
COMPLETED = 4
TO_DEVICE = pyxrt.xclBOSyncDirection.XCL_BO_SYNC_BO_TO_DEVICE
FROM_DEVICE = pyxrt.xclBOSyncDirection.XCL_BO_SYNC_BO_FROM_DEVICE

Data = tuple["np.ndarray[tuple[int, ...], np.dtype[np.int8]]", ...]


class Bare:
    """A product on pyxrt and nothing else."""

    def __init__(self, entry: Entry, x: Data, packed: Data) -> None:
        contract = entry.contract
        assert contract.xclbin is not None
        xclbin = pyxrt.xclbin(str(entry.path(contract.xclbin)))
        device = pyxrt.device(0)
        device.register_xclbin(xclbin)
        self.context = pyxrt.hw_context(device, xclbin.get_uuid())
        kernel = pyxrt.kernel(self.context, contract.kernel)
        stream = gemm_int8_stream(*SHAPE, tuple(contract.tile[axis] for axis in "mkn"))
        # A run does not keep its buffers.
        self.instructions = pyxrt.bo(device, len(stream), pyxrt.bo.cacheable, kernel.group_id(1))
        self.instructions.write(stream, 0)
        self.instructions.sync(TO_DEVICE)
        self.bos = [
            pyxrt.bo(device, size, pyxrt.bo.host_only, kernel.group_id(FIRST_BUFFER + i))
            for i, size in enumerate(gemm_int8_sizes(*SHAPE).values())
        ]
        self.arrays = [np.frombuffer(bo.map(), np.int8) for bo in self.bos]
        self.x = x
        self.arrays[1][:] = packed.reshape(-1)
        self.bos[1].sync(TO_DEVICE)
        self.run = pyxrt.run(kernel)
        for i, value in enumerate((3, self.instructions, len(stream) // 4, *self.bos)):
            self.run.set_arg(i, value)

    def launch(self) -> None:
        self.run.start()
        while int(self.run.state()) != COMPLETED:
            pass

    def product(self) -> np.ndarray:
        self.arrays[0][:] = self.x.reshape(-1)
        self.bos[0].sync(TO_DEVICE)
        self.launch()
        self.bos[2].sync(FROM_DEVICE)
        return self.arrays[2].view(np.int32).reshape(SHAPE[0], SHAPE[2])


def compare(name: str, rounds: int, bare: Callable[[], object], ours: Callable[[], object]) -> None:
    """Prints the times of both, one after the other in each round, in changing order."""
    times: dict[str, list[float]] = {"bare": [], "ours": []}
    both = [("bare", bare), ("ours", ours)]
    for i in range(rounds):
        for what, action in both if i % 2 else both[::-1]:
            began = time.perf_counter()
            action()
            times[what].append(time.perf_counter() - began)
    medians = {what: statistics.median(taken) * 1e6 for what, taken in times.items()}
    least = {what: min(taken) * 1e6 for what, taken in times.items()}
    print(
        f"{name}: bare pyxrt {medians['bare']:.1f} us (least {least['bare']:.1f}), ours "
        f"{medians['ours']:.1f} us (least {least['ours']:.1f}), ratio of medians "
        f"{medians['ours'] / medians['bare']:.2f}, of the least {least['ours'] / least['bare']:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=1500)
    args = parser.parse_args()
    entry = load_registry()[KERNEL]
    rng = np.random.default_rng(0)
    m, k, n = SHAPE
    x, w = rng.integers(-127, 128, (m, k), np.int8), rng.integers(-127, 128, (n, k), np.int8)
    device = open_device()
    gemm = Gemm(device.open(entry))
    shape = gemm_shape(gemm.tile, m, k, n)
    gemm.load_weights("w", w)
    gemm.prepare(shape)
    bare = Bare(entry, x, pack_gemm_weights(w, gemm.tile))
    expected = x.astype(np.int32) @ w.T.astype(np.int32)
    assert np.array_equal(bare.product(), expected)
    assert np.array_equal(gemm.product(x, "w", shape), expected)
    rows, sums = gemm._shared(shape)
    program, buffers = gemm._programs[shape.padded], [rows, gemm._weights["w"], sums]
    size = f"{m}x{k}x{n}"
    compare(
        f"a launch of {size}",
        args.rounds,
        bare.launch,
        lambda: gemm.kernel.launch(program, buffers),
    )
    compare(
        f"a product of {size}, with its copies and syncs",
        args.rounds,
        bare.product,
        lambda: gemm.product(x, "w", shape),
    )


if __name__ == "__main__":
    main()
