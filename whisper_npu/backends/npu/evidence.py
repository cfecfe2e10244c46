"""Evidence that a kernel computes what its contract says, on exactly this machine.

A file holds it, one record for each key: device, firmware, driver and XRT, the hashes of xclbin and
instructions, and that of the contract. Anything else than an exact match means unverified.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from whisper_npu.backends.npu.device import DeviceIdentity
from whisper_npu.backends.npu.families import family_of
from whisper_npu.backends.npu.registry import KernelEntry
from whisper_npu.errors import KernelError, OutputError
from whisper_npu.home import home_folder

FILE_NAME = "evidence.json"
_MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class Evidence:
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
        hashes[what] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "absent"
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
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class EvidenceStore:
    """The evidence file of a user, by default ``evidence.json`` in ``WHISPER_NPU_HOME``."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or home_folder() / FILE_NAME

    def all(self) -> dict[str, Evidence]:
        """Everything by key. Raises KernelError if the file cannot be understood."""
        try:
            if self.path.stat().st_size > _MAX_BYTES:
                raise KernelError(f"{self.path}: is too large for evidence; remove it")
            data = json.loads(self.path.read_text(encoding="utf-8"))
            records = [_evidence(record) for record in data["evidence"]]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise KernelError(
                f"{self.path}: is damaged ({error}); remove it and run kernels verify again"
            ) from error
        return {record.key: record for record in records}

    def find(self, identity: DeviceIdentity, entry: KernelEntry) -> Evidence | None:
        """The evidence for exactly this device and these files, if there is any."""
        return self.all().get(evidence_key(identity, entry))

    def record(self, evidence: Evidence) -> None:
        """Add or replace a record; the file changes as a whole. Raises OutputError."""
        records = {**self.all(), evidence.key: evidence}
        self._write(self.path, list(records.values()))

    def export(self, path: Path, evidence: list[Evidence]) -> None:
        """Write a report to send upstream. Raises OutputError."""
        self._write(path, evidence)

    @staticmethod
    def _write(path: Path, records: list[Evidence]) -> None:
        text = json.dumps({"evidence": [asdict(record) for record in records]}, indent=2)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(text + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(partial, path)
            except BaseException:
                os.unlink(partial)
                raise
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "device": dict,
    "files": dict,
    "cases": int,
    "launches": int,
    "worst_error": (int, float),
    "failure": (str, type(None)),
    "launch_seconds": (int, float, type(None)),
    "rate": (int, float, type(None)),
    "bytes_per_second": (int, float, type(None)),
}


def _evidence(record: Mapping[str, Any]) -> Evidence:
    for field in fields(Evidence):
        if not isinstance(record[field.name], _TYPES.get(field.name, str)):
            raise ValueError(f"{field.name} is {record[field.name]!r}")
    return Evidence(**{field.name: record[field.name] for field in fields(Evidence)})
