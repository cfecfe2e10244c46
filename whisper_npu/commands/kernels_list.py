"""``whisper-npu kernels list``: all kernels, with what is there of them and a verdict on each."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

LIST_FORMATS = ("text", "json")

_WIDTH = 100
_INDENT = "    "


def list_kernels(folders: Sequence[str], format_: str) -> int:
    """Print the built-in kernels and those of the user's folders. Raises KernelError."""
    # Imported here: the other kernel commands need no NumPy, and the verdicts take a second.
    from whisper_npu.npu.registry import load_registry
    from whisper_npu.npu.verdicts import judge

    registry = load_registry(*folders)
    for notice in registry.notices:
        print(f"whisper-npu: {notice}", file=sys.stderr)
    kernels: list[dict[str, Any]] = []
    for entry in registry:
        verdict = judge(entry)
        kernels.append(
            {
                "name": verdict.kernel,
                "op": verdict.op,
                "folder": str(entry.folder),
                "files": entry.file_status(),
                "verification": "unverified",
                "usable": verdict.usable,
                "reasons": list(verdict.reasons),
                "measures": [
                    {**asdict(measure), "passed": measure.passed} for measure in verdict.measures
                ],
            }
        )
    print(json.dumps(kernels, indent=2) if format_ == "json" else _text(kernels))
    return 0


def _text(kernels: Sequence[dict[str, Any]]) -> str:
    rows = [("kernel", "op", "files", "verification", "usable")]
    rows += [
        (k["name"], k["op"] or "-", _files(k["files"]), k["verification"], _yes(k["usable"]))
        for k in kernels
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    for position, kernel in enumerate(kernels):
        reasons = "\n".join(
            textwrap.fill(reason, _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT + "  ")
            for reason in kernel["reasons"]
        )
        if reasons:
            lines[position + 1] += "\n" + reasons
    return "\n".join(lines)


def _files(status: dict[str, str]) -> str:
    """One word if all files are alike."""
    if not status:
        return "none named"
    if len(set(status.values())) == 1:
        return next(iter(status.values()))
    return ", ".join(f"{what} {found}" for what, found in status.items())


def _yes(usable: bool) -> str:
    return "yes" if usable else "no"
