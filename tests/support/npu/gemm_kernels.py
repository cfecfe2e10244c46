"""Our INT8 GEMM kernels as registry entries, for devices that need no files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.npu.entries import entry, write_registry
from whisper_npu.backends.npu.contract import contract_from_json
from whisper_npu.backends.npu.device import DeviceIdentity
from whisper_npu.backends.npu.kernel_evidence import (
    NpuEvidence,
    contract_hash,
    evidence_key,
    file_hashes,
)
from whisper_npu.backends.npu.registry import KernelEntry

LARGE, SMALL = "gemm_int8_64x64x64", "gemm_int8_16x64x64"


def gemm_json(rows: int = 64, **changes: Any) -> dict[str, Any]:
    """The kernel with tiles of this many rows; ``changes`` replace fields."""
    buffers = [("bo0", "input", "int8"), ("bo1", "input", "int8"), ("bo2", "output", "int32")]
    fields: dict[str, Any] = {
        "name": f"gemm_int8_{rows}x64x64",
        "family": "gemm_int8",
        "version": 1,
        "model": None,
        "tile": {"m": rows, "k": 64, "n": 64},
        "dtypes": {"a": "int8", "b": "int8", "c": "int32"},
        "arithmetic": {"text": "int32 sums over all of k, not scaled"},
        "arguments": [
            {"index": 0, "name": "opcode", "role": "opcode"},
            {"index": 1, "name": "instr", "role": "instructions", "group": 1},
            {"index": 2, "name": "ninstr", "role": "size"},
            *(
                {"index": 3 + i, "name": name, "role": role, "group": 3 + i, "dtype": dtype}
                for i, (name, role, dtype) in enumerate(buffers)
            ),
        ],
        "instructions": None,
        "xclbin": {"path": f"build/gemm_int8_{rows}x64x64.xclbin"},
        "stack": None,
    }
    return entry(**{**fields, **changes})


def gemm_entry(rows: int = 64, folder: Path = Path("nowhere"), **changes: Any) -> KernelEntry:
    """As ``gemm_json``, read; its files are not there unless the folder has them."""
    return KernelEntry(contract_from_json(gemm_json(rows, **changes), "test"), folder)


def gemm_folder(folder: Path) -> Path:
    """A kernel folder with both kernels."""
    return write_registry(folder, gemm_json(64), gemm_json(16))


def evidence_of(identity: DeviceIdentity, entry: KernelEntry, **changes: Any) -> NpuEvidence:
    """Evidence as a verification that the kernel passed leaves it."""
    fields: dict[str, Any] = {
        "key": evidence_key(identity, entry),
        "kernel": entry.contract.name,
        "device": vars(identity),
        "files": file_hashes(entry),
        "contract": contract_hash(entry),
        "cases": 20,
        "launches": 40,
        "worst_error": 0.0,
        "failure": None,
        "launch_seconds": 1e-4,
        "rate": 2e11,
        "bytes_per_second": 1e10,
        "date": "2026-01-02T03:04:05+00:00",
        "producer": "test",
    }
    return NpuEvidence(**{**fields, **changes})
