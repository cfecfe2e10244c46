"""``whisper-npu kernels build``: compile the kernels for this CPU, and verify them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from whisper_npu.cli.process import say
from whisper_npu.errors import KernelError
from whisper_npu.terminal import printable

if TYPE_CHECKING:
    from whisper_npu.backends.cpu.library_evidence import CpuEvidence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--force", action="store_true", help="even if that was done before")


def run(args: argparse.Namespace) -> int:
    """Compile unless that was done, verify unless that was done; 5 if a kernel failed.

    Raises KernelError if nothing can be compiled, OutputError if nothing can be written.
    """
    from whisper_npu.backends.cpu.build import build_library, find_build
    from whisper_npu.backends.cpu.kernels import KERNELS
    from whisper_npu.backends.cpu.library import open_library
    from whisper_npu.backends.cpu.library_evidence import CpuEvidenceStore
    from whisper_npu.backends.cpu.verify_library import verify_library

    before = find_build()
    made = build_library(args.force)
    was_there = made == before and not args.force
    say(f"{printable(str(made.path))}: {'was built before' if was_there else 'built'}")
    library = open_library(made)
    say(f"{library.cpu or 'this CPU'}: {', '.join(library.isas)}; in use: {library.isa}")
    store = CpuEvidenceStore()
    known = [
        evidence
        for isa in library.isas
        for evidence in store.find(made.sha256, library.cpu, isa).values()
    ]
    if args.force or len(known) < len(library.isas) * len(KERNELS):
        known = verify_library(library, made.sha256)
        store.record(*known)
    for evidence in known:
        say(f"{evidence.kernel} ({evidence.isa}): {_outcome(evidence)}")
    return 0 if all(evidence.passed for evidence in known) else KernelError.exit_code


def _outcome(evidence: CpuEvidence) -> str:
    if evidence.failure is not None:
        return f"FAILED: {evidence.failure}"
    error = f"errors up to {evidence.worst_error:.2f} of the bound"
    return f"verified: {evidence.cases} cases, {error if evidence.worst_error else 'all equal'}"
