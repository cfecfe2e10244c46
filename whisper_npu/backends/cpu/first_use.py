"""Evidence of a library's kernels on this processor; what there is none of is verified at once."""

from __future__ import annotations

import logging
import os
import threading
import warnings

from whisper_npu.backends.cpu.build import Build
from whisper_npu.backends.cpu.kernels import KERNELS
from whisper_npu.backends.cpu.library import Library
from whisper_npu.backends.cpu.library_evidence import CpuEvidence, CpuEvidenceStore
from whisper_npu.errors import OutputError

log = logging.getLogger("whisper_npu")

# Verification changes the threads of the library: one at a time in this process. Others may do the
# same: each replaces the file of evidence as a whole, with the same findings.
_verifying = threading.Lock()


def _begin_anew() -> None:
    """In a child process: threads that held the lock are the parent's."""
    global _verifying
    _verifying = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)

# What could not be written, by library, processor and instruction set: for models to come.
_unkept: dict[tuple[str, str, str], dict[str, CpuEvidence]] = {}


def require_evidence(library: Library, build: Build) -> dict[str, CpuEvidence]:
    """The evidence of each kernel for the instruction set in use, by name.

    Kernels that there is none of are verified, which takes about a second, and the evidence is
    kept in ``WHISPER_NPU_HOME``; a warning says both that, and why it cannot be kept.
    """
    store, key = CpuEvidenceStore(), (build.sha256, library.cpu, library.isa)
    with _verifying:
        known = _unkept.get(key) or store.find(*key)
        missing = [kernel for kernel in KERNELS if kernel.name not in known]
        if not missing:
            return known
        # Imported here: NumPy's random numbers take longer than all else of a start.
        from whisper_npu.backends.cpu.verify_library import verify_library

        warnings.warn(
            f"the kernels for this CPU ({library.isa}) are used for the first time: verifying them",
            stacklevel=2,
        )
        found = verify_library(library, build.sha256, [library.isa], missing)
        known = known | {evidence.kernel: evidence for evidence in found}
        try:
            store.record(*found)
        except OutputError as error:
            _unkept[key] = known
            warnings.warn(
                f"evidence of the CPU kernels is not kept, each start verifies them: {error}",
                stacklevel=2,
            )
    for evidence in found:
        if not evidence.passed:
            log.warning("%s is not used: %s", evidence.kernel, evidence.failure)
    return known
