"""Evidence that CPU kernels compute what their contracts say, on exactly this processor.

One file beside the library, a record for each library, processor, instruction set and kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

from whisper_npu.backends.cpu.build import build_folder
from whisper_npu.backends.evidence import FILE_NAME, EvidenceStore


@dataclass(frozen=True)
class CpuEvidence:
    """What a verification found. ``library`` is the SHA-256 of the file.

    ``failure`` is None if every case passed. ``worst_error`` is the largest error as a share of
    what is allowed; 0 of an exact kernel that passed.
    """

    library: str
    cpu: str
    isa: str
    kernel: str
    cases: int
    worst_error: float
    failure: str | None
    date: str
    producer: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What evidence is found by."""
        return self.library, self.cpu, self.isa, self.kernel

    @property
    def passed(self) -> bool:
        """Whether the kernel may be used."""
        return self.failure is None


class CpuEvidenceStore(EvidenceStore[CpuEvidence]):
    """The evidence file beside the library.

    A file that cannot be understood holds no evidence, for ``kernels build`` makes it again.
    """

    def __init__(self) -> None:
        super().__init__(build_folder() / FILE_NAME, CpuEvidence)

    def find(self, library: str, cpu: str, isa: str) -> dict[str, CpuEvidence]:
        """The evidence for this library, processor and instruction set, by kernel."""
        wanted = (library, cpu, isa)
        return {e.kernel: e for e in self.all().values() if (e.library, e.cpu, e.isa) == wanted}
