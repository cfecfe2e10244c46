"""``whisper-npu kernels verify``: kernels compared with their models, and evidence made."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisper_npu.cli.options import add_verification
from whisper_npu.cli.process import say
from whisper_npu.errors import KernelError
from whisper_npu.terminal import note

if TYPE_CHECKING:
    from whisper_npu.backends.npu.manager import KernelManager


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    add_verification(parser)
    parser.add_argument(
        "--export", type=Path, metavar="FILE", help="also write a report to send upstream"
    )


def run(args: argparse.Namespace) -> int:
    """Verify kernels on a device, print a line for each; 5 if one failed or could not be tried.

    Without names those are verified whose files are there (on the software device, those that have
    a model): the others are listed as what they are.
    """
    from whisper_npu.backends.cpu.kernels import KERNELS
    from whisper_npu.backends.cpu.status import NOT_TRIED
    from whisper_npu.backends.npu.kernel_evidence import NpuEvidence, NpuEvidenceStore
    from whisper_npu.backends.npu.manager import KernelManager
    from whisper_npu.backends.opening import open_device

    names: list[str] = args.names
    manager = KernelManager(open_device(args.device), args.kernels)
    failed = False
    made: list[NpuEvidence] = []
    of_cpu = [kernel.name for kernel in KERNELS]
    for name in names or [*(status.name for status in manager.list()), *of_cpu]:
        found: NpuEvidence | KernelError
        if name in of_cpu:
            found = KernelError(NOT_TRIED)
        else:
            try:
                require_known(name, manager, of_cpu)
                found = manager.verify(name)[name]
            except KernelError as error:
                found = error
        if isinstance(found, NpuEvidence):
            made.append(found)
            say(f"{name}: {_outcome(found)}")
            failed = failed or not found.passed
        else:
            why = f"{name}: not tried: {found}"
            if names:
                note(why, who="")
            else:
                say(why)
            failed = failed or bool(names)
    if args.export is not None:
        NpuEvidenceStore().export(args.export, made)
    return KernelError.exit_code if failed else 0


def _outcome(evidence: Any) -> str:
    if not evidence.passed:
        return f"FAILED: {evidence.failure}"
    rate = f", {evidence.rate / 1e9:.1f} GOPS" if evidence.rate else ""
    outputs = "all outputs equal"
    if evidence.worst_error:
        outputs = f"errors of at most {evidence.worst_error:.2%} of the accumulated magnitude"
    return (
        f"verified: {evidence.cases} cases, {evidence.launches} launches, {outputs}; "
        f"{evidence.launch_seconds * 1e6:.0f} us a launch{rate}, copies "
        f"{evidence.bytes_per_second / 1e9:.1f} GB/s"
    )


def require_known(name: str, manager: KernelManager, of_cpu: Iterable[str]) -> None:
    """Raises KernelError if there is no kernel of this name, on an NPU or on the CPU."""
    from whisper_npu.backends.npu.registry import unknown_kernel

    known = {*(entry.contract.name for entry in manager.registry), *of_cpu}
    if name not in known:
        raise unknown_kernel(name, known)
