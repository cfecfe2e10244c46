"""Registry entries for tests: one that fits the schema, to be changed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from whisper_npu.backends.npu.contract import KernelContract, contract_from_json

_ENTRY: dict[str, Any] = {
    "name": "mine",
    "family": "matmul",
    "op": "linear_int8",
    "version": 3,
    "model": "matmul.packed_16x16",
    "exactness": "exact",
    "tile": {"m": 16, "k": 16, "n": 16},
    "dtypes": {"a": "int8", "b": "int8", "c": "int8"},
    "layout": "rows",
    "arithmetic": {"text": "a product", "shift": 7, "saturation": [-128, 127]},
    "kernel": "MLIR_AIE",
    "arguments": [
        {"index": 0, "name": "opcode", "role": "opcode"},
        {"index": 1, "name": "instr", "role": "instructions", "group": 1, "bytes": 300},
        {"index": 2, "name": "ninstr", "role": "size"},
        {"index": 3, "name": "bo0", "role": "input", "group": 3, "bytes": 512, "dtype": "int8"},
        {"index": 4, "name": "bo1", "role": "output", "group": 4, "bytes": 256, "dtype": "int8"},
    ],
    "instructions": {"path": "mine/insts.bin", "bytes": 300},
    "xclbin": {"path": "mine/mine.xclbin"},
    "device": {"name": "npu1", "pci_id": "1022:1502", "columns": 4},
    "stack": {"needed": 1024, "reserved": 1024},
    "known_issues": ["slow"],
    "provenance": {"repository": "here", "commit": "0123abc", "paths": ["mine.cc"]},
    "listed": [],
    "unnamed_files": 0,
}


def entry(**changes: Any) -> dict[str, Any]:
    """The entry as JSON, with fields replaced."""
    return {**copy.deepcopy(_ENTRY), **changes}


def contract(**changes: Any) -> KernelContract:
    return contract_from_json(entry(**changes), "test")


def write_registry(folder: Path, *entries: dict[str, Any], schema: int = 1) -> Path:
    """A kernel folder with these entries."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"schema": schema, "kernels": list(entries)})
    (folder / "registry.json").write_text(text)
    return folder
