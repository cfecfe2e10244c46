"""``whisper-npu kernels verify`` and ``status``: evidence, made and shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisper_npu.errors import KernelError

if TYPE_CHECKING:
    from whisper_npu.backends.cpu.status import CpuKernelStatus
    from whisper_npu.backends.npu.manager import KernelManager, KernelStatus

DEVICES = ("npu", "software")


def verify(names: Sequence[str], device: str, kernels: Sequence[str], export: Path | None) -> int:
    """Verify kernels on a device, print a line for each; 5 if one failed or could not be tried.

    Without names those are verified whose files are there (on the software device, those that have
    a model): the others are listed as what they are.
    """
    from whisper_npu.backends.cpu.kernels import KERNELS
    from whisper_npu.backends.cpu.status import NOT_TRIED
    from whisper_npu.backends.npu.kernel_evidence import NpuEvidence, NpuEvidenceStore
    from whisper_npu.backends.npu.manager import KernelManager
    from whisper_npu.backends.opening import open_device

    manager = KernelManager(open_device(device), kernels)
    failed = False
    made: list[NpuEvidence] = []
    of_cpu = [kernel.name for kernel in KERNELS]
    for name in names or [*(status.name for status in manager.list()), *of_cpu]:
        found: NpuEvidence | KernelError
        if name in of_cpu:
            found = KernelError(NOT_TRIED)
        else:
            try:
                _require(name, manager, of_cpu)
                found = manager.verify(name)[name]
            except KernelError as error:
                found = error
        if isinstance(found, NpuEvidence):
            made.append(found)
            print(f"{name}: {_outcome(found)}")
            failed = failed or not found.passed
        else:
            print(f"{name}: not tried: {found}", file=sys.stderr if names else sys.stdout)
            failed = failed or bool(names)
    if export is not None:
        NpuEvidenceStore().export(export, made)
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


def _require(name: str, manager: KernelManager, of_cpu: Iterable[str]) -> None:
    """Raises KernelError if there is no kernel of this name, on an NPU or on the CPU."""
    from whisper_npu.backends.npu.registry import unknown_kernel

    known = {*(entry.contract.name for entry in manager.registry), *of_cpu}
    if name not in known:
        raise unknown_kernel(name, known)


def status(names: Sequence[str], device: str, kernels: Sequence[str], form: str) -> int:
    """Print what the evidence of this machine says of each kernel."""
    from whisper_npu.backends.cpu.status import cpu_kernel_statuses
    from whisper_npu.backends.npu.manager import KernelManager
    from whisper_npu.backends.opening import open_device

    manager = KernelManager(open_device(device), kernels)
    of_cpu = {status.name: status for status in cpu_kernel_statuses()}
    for name in names:
        _require(name, manager, of_cpu)
    found: list[KernelStatus | CpuKernelStatus] = [
        of_cpu[name] if name in of_cpu else manager.status(name) for name in names
    ]
    if not names:
        found = [*manager.list(), *of_cpu.values()]
    if form == "json":
        records = [
            {
                "kernel": kernel.name,
                "state": kernel.state,
                "files": kernel.files,
                "evidence": asdict(kernel.evidence) if kernel.evidence else None,
            }
            for kernel in found
        ]
        print(json.dumps(records, indent=2))
        return 0
    for kernel in found:
        files = ", ".join(f"{what} {state}" for what, state in kernel.files.items())
        when = f" on {kernel.evidence.date}" if kernel.evidence else ""
        print(f"{kernel.name:<28} {kernel.state}{when} ({files or 'no files needed'})")
    return 0
