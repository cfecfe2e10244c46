"""Files of evidence: what verifications of kernels found on this machine, a record for each key."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Hashable, Iterable
from dataclasses import asdict
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Generic, Protocol, TypeVar, get_args, get_origin, get_type_hints

from whisper_npu.errors import KernelError
from whisper_npu.files.owner import check_owners, keep_private, make_private
from whisper_npu.files.whole import read_file, replacing, writing

FILE_NAME = "evidence.json"
_MAX_BYTES = 16 << 20


class Record(Protocol):
    """A dataclass of what a verification found; ``key`` is what it is found by.

    Its fields are text, numbers, mappings, or one of these or None.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def key(self) -> Hashable: ...


R = TypeVar("R", bound=Record)


class EvidenceStore(Generic[R]):
    """A file with records of one kind.

    ``advice`` says what to do about a file that cannot be understood, which is an error then.
    Without it such a file is as good as none, and a warning says why. So it is with a file that
    others may have written.
    """

    def __init__(self, path: Path, kind: type[R], advice: str | None = None) -> None:
        self.path = path
        self._kind, self._advice = kind, advice
        self._refused = False

    def all(self) -> dict[Hashable, R]:
        """Everything by key. Raises KernelError if the file cannot be understood."""
        try:
            check_owners(self.path, KernelError, "remove it, and verify the kernels again")
            data = json.loads(read_file(self.path, _MAX_BYTES, KernelError))
            records = [self._record(record) for record in data["evidence"]]
        except KernelError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return {}
            return self._refuse(str(error))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            return self._refuse(f"{self.path}: is damaged ({error})")
        return {record.key: record for record in records}

    def record(self, *records: R) -> None:
        """Add or replace records; the file changes as a whole. Raises OutputError.

        Raises KernelError as ``all`` does; the file stays as it is then.
        """
        known = self.all()
        known.update((record.key, record) for record in records)
        with writing(self.path):
            make_private(self.path.parent)
        self._write(self.path, known.values())
        with writing(self.path):
            keep_private(self.path)

    def export(self, path: Path, records: Iterable[R]) -> None:
        """Write a report to send upstream. Raises OutputError."""
        self._write(path, records)

    def _refuse(self, problem: str) -> dict[Hashable, R]:
        if self._advice is None:
            if not self._refused:
                self._refused = True
                warnings.warn(f"evidence of kernels is not used: {problem}", stacklevel=2)
            return {}
        raise KernelError(f"{problem}; {self._advice}")

    def _record(self, found: Any) -> R:
        """A record with the fields that its kind has. What is not understood is no evidence."""
        types = get_type_hints(self._kind)
        values = {name: found[name] for name in self._kind.__dataclass_fields__}
        for name, value in values.items():
            if not _is_of(value, types[name]):
                raise ValueError(f"{name} is {value!r}")
        return self._kind(**values)

    @staticmethod
    def _write(path: Path, records: Iterable[R]) -> None:
        text = json.dumps({"evidence": [asdict(record) for record in records]}, indent=2)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as new, new.open("w", encoding="utf-8") as file:
                file.write(text + "\n")
                file.flush()
                # A file that is empty after a power failure would be damaged evidence.
                os.fsync(file.fileno())


def _is_of(value: object, kind: Any) -> bool:
    if isinstance(kind, UnionType):
        return any(_is_of(value, each) for each in get_args(kind))
    if kind is float:
        return isinstance(value, (int, float))
    return isinstance(value, get_origin(kind) or kind)
