"""Kernel registries: the built-in folder ``kernels`` and folders of the user's own.

A folder holds ``registry.json`` and the files that it names. What it says is checked against the
schema before anything is made of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import fastjsonschema

from whisper_npu.backends.npu.contract import KernelContract, KernelFile, contract_from_json
from whisper_npu.errors import KernelError
from whisper_npu.files.places import shipped_file
from whisper_npu.files.whole import file_sha256, read_file

FILE_NAME = "registry.json"
SCHEMA_NAME = "registry.schema.json"
KERNELS_ENVIRONMENT = "WHISPER_NPU_KERNELS"

# That of the inventory has 60 kB. A larger file is not one that somebody wrote.
MAX_BYTES = 8 << 20

FileStatus = Literal["present", "absent", "wrong hash"]


@dataclass(frozen=True)
class KernelEntry:
    """A contract and the folder that its files are relative to.

    ``models`` is the Python file or package of the folder that has its models, if there is one.
    """

    contract: KernelContract
    folder: Path
    models: str | None = None

    def path(self, file: KernelFile) -> Path:
        """Where a file of the contract is, or would be."""
        return self.folder / file.path

    def file_status(self) -> dict[str, FileStatus]:
        """Whether each file that the contract names is there, with the hash that it names."""
        return {what: self._status(file) for what, file in self.contract.files.items()}

    def _status(self, file: KernelFile) -> FileStatus:
        path = self.path(file)
        # A link may have been put there since the registry was read.
        if not path.is_file() or not is_inside(path, self.folder):
            return "absent"
        return "present" if file.sha256 in (None, file_sha256(path)) else "wrong hash"


class Registry:
    """Kernels by name, in the order of the folders. ``notices`` are lines for the user."""

    def __init__(self, entries: Mapping[str, KernelEntry], notices: Sequence[str] = ()) -> None:
        self._entries = dict(entries)
        self.notices = tuple(notices)

    def __iter__(self) -> Iterator[KernelEntry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> KernelEntry:
        """Raises KernelError if there is no kernel of that name."""
        try:
            return self._entries[name]
        except KeyError:
            raise unknown_kernel(name, self._entries) from None


def unknown_kernel(name: str, known: Iterable[str]) -> KernelError:
    """The error for a name that is not among the known ones; it says how to name a kernel of the
    inventory, whose folder is in no registry unless it is given."""
    message = f"{name}: no such kernel; there are {', '.join(sorted(known))}"
    # The inventory may not be installed, or be damaged: then there is nothing to advise.
    with suppress(KernelError):
        if any(entry.contract.name == name for entry in read_folder(inventory_folder())):
            message += f"; {name} is one of the inventory: add --kernels {inventory_folder()}"
    return KernelError(message)


def load_registry(*folders: str | os.PathLike[str], inventory: bool = False) -> Registry:
    """The built-in kernels, then those of WHISPER_NPU_KERNELS, then those of ``folders``.

    With ``inventory`` those of the published inventory follow the built-in ones. A kernel replaces
    one of the same name of an earlier folder, and a notice says so. Raises KernelError that names
    the file and the place in it.
    """
    variable = os.environ.get(KERNELS_ENVIRONMENT, "")
    own = [*(part for part in variable.split(os.pathsep) if part), *folders]
    entries: dict[str, KernelEntry] = {}
    notices: list[str] = []
    shipped = [built_in_folder(), *([inventory_folder()] if inventory else [])]
    for folder in [*shipped, *map(Path, own)]:
        for entry in read_folder(folder):
            name = entry.contract.name
            if name in entries and entries[name].folder.resolve() != folder.resolve():
                notices.append(f"kernel {name} of {folder} replaces that of {entries[name].folder}")
            entries[name] = entry
    return Registry(entries, notices)


def built_in_folder() -> Path:
    """The folder of the built-in registry. Raises KernelError if it was not installed."""
    file = shipped_file(f"kernels/{FILE_NAME}")
    if file is None:
        raise KernelError(f"kernels/{FILE_NAME} was not installed; install whisper-npu again")
    return file.parent


def inventory_folder() -> Path:
    """The folder of the published kernels that are not ours. Raises KernelError as above."""
    return built_in_folder() / "inventory"


def read_folder(folder: Path) -> list[KernelEntry]:
    """The kernels of one folder. Raises KernelError."""
    file = folder / FILE_NAME
    data = read_checked(file, SCHEMA_NAME)
    models = data.get("models")
    if models is not None:
        _check_inside(models, folder, f"{file}: models")
    entries: dict[str, KernelEntry] = {}
    for position, kernel in enumerate(data["kernels"]):
        where = f"{file}: kernels[{position}]"
        contract = contract_from_json(kernel, where)
        if contract.name in entries:
            raise KernelError(f"{where}: a second kernel of the name {contract.name}")
        for what, named in contract.files.items():
            _check_inside(named.path, folder, f"{where}.{what}.path")
        entries[contract.name] = KernelEntry(contract, folder, models)
    return list(entries.values())


def read_checked(file: Path, schema: str) -> Any:
    """A JSON file that fits a schema of the built-in folder. Raises KernelError."""
    data = _read_json(file)
    try:
        _validator(schema)(data)
    except fastjsonschema.JsonSchemaValueException as error:
        raise KernelError(f"{file}: {error.message}") from error
    return data


def _read_json(file: Path) -> Any:
    try:
        return json.loads(read_file(file, MAX_BYTES, KernelError).decode("utf-8"))
    except KernelError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise KernelError(f"{error}; a kernel folder has one") from None
        raise
    except (ValueError, RecursionError) as error:
        raise KernelError(f"{file}: cannot be read as JSON: {error}") from error


@lru_cache(maxsize=2)
def _validator(schema: str) -> Callable[[Any], Any]:
    content = json.loads((built_in_folder() / schema).read_text(encoding="utf-8"))
    compiled: Callable[[Any], Any] = fastjsonschema.compile(content, use_default=False)
    return compiled


def _check_inside(name: str, folder: Path, where: str) -> None:
    """A file of a registry is a file of its folder: another path could point anywhere."""
    parts = PurePosixPath(name).parts
    plain = "\\" not in name and ":" not in name and not name.startswith("/")
    if not plain or not parts or ".." in parts or not is_inside(folder / name, folder):
        raise KernelError(f"{where}: {name!r} is not inside of {folder}")


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path leads into the folder, all links followed."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):
        # A loop of links, or a name that no file can have.
        return False
