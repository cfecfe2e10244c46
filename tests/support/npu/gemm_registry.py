"""A registry folder with our INT8 GEMM, and GEMMs on a device to check against NumPy."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_npu.backends.npu.device import Buffer, Kernel, Program
from whisper_npu.backends.npu.packing import GemmTile, pack_gemm_weights
from whisper_npu.backends.npu.registry import Registry, read_folder

NAME = "gemm_int8_64x64x64"
TILE = GemmTile(64, 64, 64)


def entry(name: str, file: Path, **changes: Any) -> dict[str, Any]:
    """The entry of a GEMM with tiles of 64; ``changes`` replace members of it."""
    buffers = [("bo0", "input", "int8"), ("bo1", "input", "int8"), ("bo2", "output", "int32")]
    made: dict[str, Any] = {
        "name": name,
        "family": "gemm_int8",
        "op": "product_int8",
        "version": 1,
        "model": None,
        "exactness": "exact",
        "tile": {"m": 64, "k": 64, "n": 64},
        "dtypes": {"a": "int8", "b": "int8", "c": "int32"},
        "layout": "docs/instruction-streams.md",
        "arithmetic": {"text": "int32 sums", "accumulator": "int32"},
        "kernel": "MLIR_AIE",
        "arguments": [
            {"index": 0, "name": "opcode", "role": "opcode"},
            {"index": 1, "name": "instr", "role": "instructions", "group": 1},
            {"index": 2, "name": "ninstr", "role": "size"},
            *(
                {"index": 3 + i, "name": label, "role": role, "group": 3 + i, "dtype": dtype}
                for i, (label, role, dtype) in enumerate(buffers)
            ),
        ],
        "instructions": None,
        "xclbin": {
            "path": file.name,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        },
        "device": {"name": "npu1 (Phoenix, Hawk Point)", "pci_id": "1022:1502", "columns": 1},
        "stack": None,
        "known_issues": [],
        "provenance": {"repository": "none", "commit": None, "paths": []},
        "listed": [],
        "unnamed_files": 0,
    }
    return made | changes


def write_registry(folder: Path, *entries: dict[str, Any]) -> Registry:
    """A registry of these entries alone, whose files are in ``folder``."""
    (folder / "registry.json").write_text(json.dumps({"schema": 1, "kernels": list(entries)}))
    return Registry({e.contract.name: e for e in read_folder(folder)})


class Gemm:
    """One product on a kernel with tiles of 64, with its buffers."""

    def __init__(self, kernel: Kernel, shape: tuple[int, int, int], seed: int = 0) -> None:
        m, k, n = shape
        random = np.random.default_rng(seed)
        self.kernel = kernel
        self.x = random.integers(-127, 128, (m, k), np.int8)
        self.w = random.integers(-127, 128, (n, k), np.int8)
        self.program: Program = kernel.program(shape)
        self.buffers: list[Buffer] = [
            kernel.buffer(3, m * k),
            kernel.buffer(4, k * n),
            kernel.buffer(5, 4 * m * n),
        ]
        self.load()

    def load(self) -> None:
        """Write and sync the inputs."""
        packed = pack_gemm_weights(self.w, TILE)
        for buffer, data in zip(self.buffers, (self.x, packed), strict=False):
            buffer.array[:] = data.view(np.uint8).ravel()
            buffer.to_device()

    def launch(self) -> None:
        self.kernel.launch(self.program, self.buffers)

    @property
    def result(self) -> NDArray[np.int32]:
        """What is in the output buffer."""
        self.buffers[2].from_device()
        m, n = len(self.x), len(self.w)
        return self.buffers[2].array.view(np.int32).reshape(m, n)

    @property
    def expected(self) -> NDArray[np.int32]:
        product: NDArray[np.int32] = self.x.astype(np.int32) @ self.w.T.astype(np.int32)
        return product

    def check(self) -> None:
        """Launch, and compare all integers."""
        self.buffers[2].array[:] = 0xEE
        self.buffers[2].to_device()
        self.launch()
        np.testing.assert_array_equal(self.result, self.expected)
