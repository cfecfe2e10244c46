"""What the lists of kernels show of those for this processor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from whisper_npu.backends.cpu.build import find_build, source_folder
from whisper_npu.backends.cpu.kernels import KERNELS
from whisper_npu.backends.cpu.library import load_library
from whisper_npu.backends.cpu.library_evidence import CpuEvidence, CpuEvidenceStore
from whisper_npu.backends.cpu.records import CpuKernel
from whisper_npu.files.whole import file_sha256

# Why ``kernels verify`` does not try one.
NOT_TRIED = "is verified by whisper-npu kernels build"

Presence = Literal["present", "absent"]
State = Literal["unverified", "verified", "failed verification"]


@dataclass(frozen=True)
class CpuKernelStatus:
    """A kernel, whether there is a library, and what the evidence of this processor says of it."""

    kernel: CpuKernel
    library: Presence
    state: State
    # That of an NPU's kernels has another form; ``kernels build`` shows this one.
    evidence: None = None

    @property
    def name(self) -> str:
        """The kernel's name."""
        return self.kernel.name

    @property
    def folder(self) -> Path:
        """The folder of kernels that its sources are in."""
        return source_folder().parents[1]

    @property
    def files(self) -> dict[str, str]:
        """The only file there is: the library."""
        return {"library": self.library}


def cpu_kernel_statuses() -> Iterator[CpuKernelStatus]:
    """Of all kernels, in order. Raises KernelError for a library that cannot be loaded."""
    evidence = _evidence()
    for kernel in KERNELS:
        found = None if evidence is None else evidence.get(kernel.name)
        library: Presence = "absent" if evidence is None else "present"
        state: State = "unverified"
        if found is not None:
            state = "verified" if found.passed else "failed verification"
        yield CpuKernelStatus(kernel, library, state)


def _evidence() -> dict[str, CpuEvidence] | None:
    """What is known here of each kernel by name; None if there is no library."""
    build = find_build()
    if build is None:
        return None
    library = load_library(build.path)
    return CpuEvidenceStore().find(file_sha256(build.path), library.cpu, library.isa)
