"""What the lists of kernels show of those for this processor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from whisper_npu.backends.cpu.build import (
    COMMAND,
    Build,
    find_builds,
    source_folder,
    why_no_build,
)
from whisper_npu.backends.cpu.kernels import KERNELS
from whisper_npu.backends.cpu.library import open_first, open_library
from whisper_npu.backends.cpu.library_evidence import CpuEvidence, CpuEvidenceStore
from whisper_npu.backends.cpu.records import CpuKernel
from whisper_npu.errors import KernelError

# Why ``kernels verify`` does not try one.
NOT_TRIED = f"is verified when it is first used, and by {COMMAND}"

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
    """Of all kernels, in order; of a library that may not be loaded as if there were none."""
    build = usable_build()
    known: dict[str, CpuEvidence] = {}
    if isinstance(build, Build):
        library = open_library(build)
        known = CpuEvidenceStore().find(build.sha256, library.cpu, library.isa)
    for kernel in KERNELS:
        state: State = "unverified"
        if kernel.name in known:
            state = "verified" if known[kernel.name].passed else "failed verification"
        yield CpuKernelStatus(kernel, "present" if isinstance(build, Build) else "absent", state)


def usable_build() -> Build | str:
    """The library that is there and can be loaded, or in one line why there is none."""
    try:
        opened = open_first(find_builds())
    except KernelError as error:
        return str(error)
    return why_no_build() if opened is None else opened[0]
