"""Registry entries for tests: one that fits the schema, to be changed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from whisper_npu.backends.npu.contract import KernelContract, contract_from_json
from whisper_npu.backends.npu.kernel_evidence import contract_hash
from whisper_npu.backends.npu.registry import KernelEntry

# What kernels of a fixed shape compute, as Python that stands beside a registry.
MODELS = Path(__file__).parents[2] / "data/npu/models.py"

_ENTRY: dict[str, Any] = {
    "name": "mine",
    "family": "matmul",
    "op": "product_int8",
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


def matmul_entry(**changes: Any) -> KernelEntry:
    """The kernel in a folder that has its model and none of its files."""
    return KernelEntry(contract(**changes), MODELS.parent, MODELS.name)


def write_registry(
    folder: Path, *entries: dict[str, Any], schema: int = 1, models: str | None = None
) -> Path:
    """A kernel folder with these entries, and with their models or these (Python)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODELS.name).write_text(models or MODELS.read_text())
    text = json.dumps({"schema": schema, "models": MODELS.name, "kernels": list(entries)})
    (folder / "registry.json").write_text(text)
    return folder


def verdict_record(**changes: Any) -> dict[str, Any]:
    """A verdict of ``verdicts.json`` on the kernel of ``entry``, with fields replaced."""
    measure = {"case": "all 127", "quantity": "error", "value": 0.5, "limit": 0}
    fields: dict[str, Any] = {
        "kernel": "mine",
        "contract": contract_hash(matmul_entry()),
        "usable": False,
        "reasons": ["loses half"],
        "measures": [measure],
    }
    return {**fields, **changes}


def write_verdicts(folder: Path, *records: dict[str, Any]) -> Path:
    """``verdicts.json`` of a kernel folder."""
    text = json.dumps({"schema": 1, "verdicts": list(records)})
    (folder / "verdicts.json").write_text(text)
    return folder
