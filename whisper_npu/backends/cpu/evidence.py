"""Evidence that CPU kernels compute what their contracts say, on exactly this processor.

One file beside the library, a record for each library, processor, instruction set and kernel.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from whisper_npu.backends.cpu.build import build_folder
from whisper_npu.errors import OutputError

FILE_NAME = "evidence.json"
_MAX_BYTES = 16 << 20


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
    def passed(self) -> bool:
        """Whether the kernel may be used."""
        return self.failure is None


def library_hash(path: Path) -> str:
    """SHA-256 of a library."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_evidence() -> list[CpuEvidence]:
    """All records; none if the file is not there or cannot be understood."""
    file = build_folder() / FILE_NAME
    try:
        if file.stat().st_size > _MAX_BYTES:
            return []
        records = json.loads(file.read_text(encoding="utf-8"))["evidence"]
        found = [CpuEvidence(**record) for record in records]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return [evidence for evidence in found if _is_sound(evidence)]


def find_evidence(library: str, cpu: str, isa: str) -> dict[str, CpuEvidence]:
    """The evidence for this library, processor and instruction set, by kernel."""
    wanted = (library, cpu, isa)
    return {e.kernel: e for e in read_evidence() if (e.library, e.cpu, e.isa) == wanted}


def record_evidence(evidence: Iterable[CpuEvidence]) -> None:
    """Add or replace records; the file changes as a whole. Raises OutputError."""
    records = {(e.library, e.cpu, e.isa, e.kernel): e for e in (*read_evidence(), *evidence)}
    text = json.dumps({"evidence": [asdict(e) for e in records.values()]}, indent=2)
    file = build_folder() / FILE_NAME
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=file.parent, prefix=f".{FILE_NAME}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text + "\n")
            os.replace(partial, file)
        except BaseException:
            os.unlink(partial)
            raise
    except OSError as error:
        raise OutputError(f"{file}: cannot be written: {error.strerror or error}") from error


def _is_sound(evidence: CpuEvidence) -> bool:
    """Whether every field has its type: what is not understood is no evidence."""
    for field in fields(CpuEvidence):
        value = getattr(evidence, field.name)
        if field.name == "failure":
            sound = value is None or isinstance(value, str)
        elif field.name == "worst_error":
            sound = isinstance(value, (int, float))
        else:
            sound = isinstance(value, int if field.name == "cases" else str)
        if not sound:
            return False
    return True
