"""Evidence that a kernel computes what its contract says, on exactly this machine.

A file holds it, one record for each key: device, firmware, driver and XRT, the hashes of xclbin and
instructions, that of the contract, and the version of the verification. Anything else than an exact
match means unverified.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from whisper_npu.backends.evidence import FILE_NAME, EvidenceStore
from whisper_npu.backends.npu.device import DeviceIdentity
from whisper_npu.backends.npu.families import family_of
from whisper_npu.backends.npu.kernel_rates import KernelRates
from whisper_npu.backends.npu.registry import KernelEntry
from whisper_npu.files.whole import file_sha256
from whisper_npu.home import home_folder

# What a verification consists of: evidence of an earlier one does not count.
_VERIFICATION = 2


@dataclass(frozen=True)
class NpuEvidence:
    """What a verification found.

    ``key`` is that of ``evidence_key``. ``failure`` is None if every case passed. ``worst_error``
    is the largest difference of an integer, or of a float as a share of what it is added up from
    without regard to signs. Times in seconds, medians; ``rate`` in operations per second (a
    multiply and an add are two) without the time of the launch itself; ``bytes_per_second`` is that
    of copying and synchronising buffers.
    """

    key: str
    kernel: str
    device: Mapping[str, str]
    files: Mapping[str, str]
    contract: str
    cases: int
    launches: int
    worst_error: float
    failure: str | None
    launch_seconds: float | None
    rate: float | None
    bytes_per_second: float | None
    date: str
    producer: str

    @property
    def passed(self) -> bool:
        """Whether the kernel may be used."""
        return self.failure is None

    def rates(self) -> KernelRates:
        """What the kernel was found to do on this machine."""
        return KernelRates(
            launch_seconds=self.launch_seconds or 0.0,
            rate=self.rate or float("inf"),
            dma_bytes_per_second=float("inf"),
            copy_bytes_per_second=self.bytes_per_second or float("inf"),
            source=f"measured by kernels verify on {self.date[:10]}",
        )


def contract_hash(entry: KernelEntry) -> str:
    """SHA-256 of all that the contract says."""
    text = json.dumps(asdict(entry.contract), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def file_hashes(entry: KernelEntry) -> dict[str, str]:
    """SHA-256 of xclbin and instructions as they are now; "absent" for a file that is not there.

    Where instructions are generated, it is that of the family's sample of them.
    """
    hashes = {}
    for what, file in entry.contract.files.items():
        path = entry.path(file)
        hashes[what] = file_sha256(path) if path.is_file() else "absent"
    if entry.contract.instructions is None:
        stream = family_of(entry).sample()
        if stream is not None:
            hashes["instructions"] = hashlib.sha256(stream).hexdigest()
    return hashes


def evidence_key(identity: DeviceIdentity, entry: KernelEntry) -> str:
    """What evidence is found by."""
    parts = {
        "device": asdict(identity),
        "files": file_hashes(entry),
        "kernel": entry.contract.name,
        "contract": contract_hash(entry),
        "verification": _VERIFICATION,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class NpuEvidenceStore(EvidenceStore[NpuEvidence]):
    """The evidence file of a user, by default ``evidence.json`` in ``WHISPER_NPU_HOME``."""

    def __init__(self, path: Path | None = None) -> None:
        advice = "remove it and run kernels verify again"
        super().__init__(path or home_folder() / FILE_NAME, NpuEvidence, advice)

    def find(self, identity: DeviceIdentity, entry: KernelEntry) -> NpuEvidence | None:
        """The evidence for exactly this device and these files, if there is any."""
        return self.all().get(evidence_key(identity, entry))
