"""``whisper-npu kernels list``: all kernels, with what is there of them and a verdict on each."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from whisper_npu.backends.machine_options import AUTO
from whisper_npu.cli.options import VERIFIED_ON, add_format, add_kernels
from whisper_npu.cli.process import say
from whisper_npu.errors import KernelError
from whisper_npu.terminal import note

if TYPE_CHECKING:
    from whisper_npu.backends.npu.device import Device

_WIDTH = 100
_INDENT = "    "


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    add_kernels(parser)
    parser.add_argument(
        "--all",
        action="store_true",
        help="also the published kernels that are not ours (kernels/inventory)",
    )
    add_format(parser)
    parser.add_argument(
        "--device",
        choices=(AUTO, *VERIFIED_ON),
        default=AUTO,
        help="whose verification to show: the NPU if there is one (auto), or software",
    )


def run(args: argparse.Namespace) -> int:
    """Print the built-in kernels and those of the user's folders, with ``--all`` also those of the
    published inventory. Raises KernelError."""
    # Imported here: the other kernel commands need no NumPy.
    from whisper_npu.backends.cpu.status import cpu_kernel_statuses, usable_build
    from whisper_npu.backends.npu.manager import KernelManager
    from whisper_npu.backends.npu.verdicts import judge, read_verdicts

    manager = KernelManager(_opened(args.device), args.kernels, inventory=args.all)
    for notice in manager.registry.notices:
        note(notice)
    kernels: list[dict[str, Any]] = []
    statuses = manager.list()
    recorded = {f: read_verdicts(f) for f in {status.entry.folder for status in statuses}}
    for status in statuses:
        verdict = judge(status.entry, recorded[status.entry.folder].get(status.name))
        kernels.append(
            {
                "name": verdict.kernel,
                "op": verdict.op,
                "folder": str(status.entry.folder),
                "files": status.files,
                "verification": status.state,
                "usable": verdict.usable,
                "reasons": list(verdict.reasons),
                "measures": [
                    {**asdict(measure), "passed": measure.passed} for measure in verdict.measures
                ],
            }
        )
    # What a CPU kernel computes is the op itself: whether it does, only verification says.
    kernels += [
        {
            "name": cpu.name,
            "op": cpu.kernel.op,
            "folder": str(cpu.folder),
            "files": cpu.files,
            "verification": cpu.state,
            "usable": True,
            "reasons": [],
            "measures": [],
        }
        for cpu in cpu_kernel_statuses()
    ]
    say_why_none(usable_build())
    say(json.dumps(kernels, indent=2) if args.format == "json" else _text(kernels))
    return 0


def say_why_none(build: object) -> None:
    """Say on stderr why there are no kernels for this CPU, if ``usable_build`` gave the reason."""
    if isinstance(build, str):
        note(build)


def _opened(name: str) -> Device | None:
    """The device that verification is looked up for; with "auto" there need not be one."""
    from whisper_npu.backends.opening import open_device

    try:
        return open_device(name)
    except KernelError as error:
        if name != AUTO:
            raise
        note(f"nothing is verified without an NPU: {error}")
        return None


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
