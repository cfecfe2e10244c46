"""``whisper-npu kernels status``: what the evidence of this machine says of each kernel."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from whisper_npu.cli.kernels_list import say_why_none
from whisper_npu.cli.kernels_verify import require_known
from whisper_npu.cli.options import add_format, add_verification
from whisper_npu.cli.process import say

if TYPE_CHECKING:
    from whisper_npu.backends.cpu.status import CpuKernelStatus
    from whisper_npu.backends.npu.manager import KernelStatus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    add_verification(parser)
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Print what the evidence of this machine says of each kernel."""
    from whisper_npu.backends.cpu.status import cpu_kernel_statuses, usable_build
    from whisper_npu.backends.npu.manager import KernelManager
    from whisper_npu.backends.opening import open_device

    names: list[str] = args.names
    manager = KernelManager(open_device(args.device), args.kernels)
    of_cpu = {status.name: status for status in cpu_kernel_statuses()}
    for name in names:
        require_known(name, manager, of_cpu)
    found: list[KernelStatus | CpuKernelStatus] = [
        of_cpu[name] if name in of_cpu else manager.status(name) for name in names
    ]
    if not names:
        found = [*manager.list(), *of_cpu.values()]
    if any(status.name in of_cpu for status in found):
        say_why_none(usable_build())
    if args.format == "json":
        records = [
            {
                "kernel": kernel.name,
                "state": kernel.state,
                "files": kernel.files,
                "evidence": asdict(kernel.evidence) if kernel.evidence else None,
            }
            for kernel in found
        ]
        say(json.dumps(records, indent=2))
        return 0
    for kernel in found:
        files = ", ".join(f"{what} {state}" for what, state in kernel.files.items())
        when = f" on {kernel.evidence.date}" if kernel.evidence else ""
        say(f"{kernel.name:<28} {kernel.state}{when} ({files or 'no files needed'})")
    return 0
