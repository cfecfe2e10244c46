"""What our code adds to a launch: the same product by bare pyxrt and by ours, by turns.

    tools/npu_emulator/run python tools/npu_emulator/overhead.py [--rounds 1500]

Both use the same kernel, run objects and buffers that are made once, and wait by polling. Prints a
table of median and least of each, and ratios. On the emulator a launch is the work of this
processor; on an NPU (with plain python there) it is the real thing.
"""

from __future__ import annotations

import argparse
import platform
import statistics
from collections.abc import Callable
from functools import partial

import numpy as np
import pyxrt

from tools.markdown import markdown_table
from tools.measuring import by_turns, seconds
from whisper_npu.backends.npu.families.gemm import GemmInt8, TilePacking
from whisper_npu.backends.npu.families.gemm_stream import gemm_int8_sizes, gemm_int8_stream
from whisper_npu.backends.npu.kernel_rates import PHOENIX_CORE
from whisper_npu.backends.npu.packing import pack_gemm_weights
from whisper_npu.backends.npu.registry import KernelEntry, load_registry
from whisper_npu.backends.npu.runner import Launch, Runner
from whisper_npu.backends.npu.xrt import open_device
from whisper_npu.model.graph import Graph, Op, Tensor
from whisper_npu.runtime.backend import Bound

KERNEL = "gemm_int8_64x64x64"
SHAPE = (64, 64, 64)
COMPLETED = 4
TO_DEVICE = pyxrt.xclBOSyncDirection.XCL_BO_SYNC_BO_TO_DEVICE
FROM_DEVICE = pyxrt.xclBOSyncDirection.XCL_BO_SYNC_BO_FROM_DEVICE

Data = tuple["np.ndarray[tuple[int, ...], np.dtype[np.int8]]", ...]


class Bare:
    """A product on pyxrt and nothing else."""

    def __init__(self, entry: KernelEntry, x: Data, packed: Data) -> None:
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
            pyxrt.bo(device, size, pyxrt.bo.host_only, kernel.group_id(argument.index))
            for argument, size in zip(
                (*contract.inputs, *contract.outputs), gemm_int8_sizes(*SHAPE).values(), strict=True
            )
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


def ours(entry: KernelEntry, x: Data, w: Data) -> Launch:
    """The same product, as a plan launches it."""
    m, k, n = SHAPE
    shapes = {"x": (m, k), "x.scale": (m,), "w": (n, k), "w.scale": (n,), "y": (m, n)}
    dtypes = {"x": "int8", "w": "int8", "y": "int32"}
    graph = Graph(
        "phase",
        tuple(
            Tensor(name, shape, dtypes.get(name, "float32"), "input")
            for name, shape in shapes.items()
        ),
        (Op("product", "product_int8", ("x", "x.scale", "w", "w.scale"), ("y",)),),
    )
    family = GemmInt8(entry)
    runner = Runner(open_device().open(entry), family)
    packing = TilePacking(entry.contract.name, family.tile, runner.take)
    packed = packing.take("w", w.shape)
    packing.fill(packed, w, 0)
    runner.synchronise("w")
    scales = {name: np.ones(shapes[name], np.float32) for name in ("x.scale", "w.scale")}
    y = np.empty(shapes["y"], np.int32)
    work = family.work(graph, 0, PHOENIX_CORE)
    assert work is not None
    return runner.prepare(work, Bound(graph.ops, {**scales, "x": x, "w": packed, "y": y}))


def compare(
    name: str, rounds: int, bare: Callable[[], object], ours: Callable[[], object]
) -> list[str]:
    """A row of the table."""
    actions = {"bare": partial(seconds, bare), "ours": partial(seconds, ours)}
    times = by_turns(actions, rounds)
    medians = {what: statistics.median(taken) * 1e6 for what, taken in times.items()}
    least = {what: min(taken) * 1e6 for what, taken in times.items()}
    return [
        name,
        *(f"{medians[what]:.1f} ({least[what]:.1f})" for what in actions),
        f"{medians['ours'] / medians['bare']:.2f} ({least['ours'] / least['bare']:.2f})",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=1500)
    args = parser.parse_args()
    entry = load_registry()[KERNEL]
    rng = np.random.default_rng(0)
    m, k, n = SHAPE
    x, w = rng.integers(-127, 128, (m, k), np.int8), rng.integers(-127, 128, (n, k), np.int8)
    launch = ours(entry, x, w)
    bare = Bare(entry, x, pack_gemm_weights(w, GemmInt8(entry).tile))
    expected = x.astype(np.int32) @ w.T.astype(np.int32)
    assert np.array_equal(bare.product(), expected)
    launch()
    (sums,) = launch.outputs
    assert np.array_equal(sums.array.view(np.int32).reshape(m, n), expected)
    size = f"{m}x{k}x{n}"
    rows = [
        compare(f"a launch of {size}", args.rounds, bare.launch, launch.launch),
        compare("the same with copies and syncs", args.rounds, bare.product, launch),
    ]
    # Not those of who asked for this: the emulator has a Python of its own.
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}"
    print(f"{versions}, {args.rounds} rounds by turns.\n")
    titles = ("bare pyxrt, us: median (least)", "ours", "ratio")
    print("\n".join(markdown_table(["", *titles], rows)))


if __name__ == "__main__":
    main()
