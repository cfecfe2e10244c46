"""What is known of one kernel before it is launched: an entry of ``kernels/registry.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from whisper_npu.errors import KernelError

ArgumentRole = Literal["opcode", "instructions", "size", "input", "output"]

EXACT = "exact"

_DIRECTIONS = {"instructions": "to device", "input": "to device", "output": "from device"}


@dataclass(frozen=True)
class Argument:
    """An argument of the kernel. ``index`` is also what ``kernel.group_id`` takes.

    ``bytes``, ``dtype`` and ``shape`` are those of the buffer's contents; a scalar has none, and a
    buffer whose size depends on the launch has no ``bytes``.
    """

    index: int
    name: str
    role: ArgumentRole
    group: int | None = None
    bytes: int | None = None
    dtype: str | None = None
    shape: tuple[int, ...] | None = None

    @property
    def direction(self) -> str | None:
        """ "to device", "from device", or None for a scalar."""
        return _DIRECTIONS.get(self.role)


@dataclass(frozen=True)
class Arithmetic:
    """How the outputs follow from the inputs: in words, and what of it has a number.

    ``shift`` is to the right, ``saturation`` the bounds of the stored value and ``scale`` the real
    number that an output of 1 stands for, where the kernel fixes it.
    """

    text: str
    accumulator: str | None = None
    shift: int | None = None
    rounding: str | None = None
    saturation: tuple[int, int] | None = None
    scale: float | None = None


@dataclass(frozen=True)
class KernelFile:
    """A file relative to the registry's folder. ``bytes`` and ``sha256`` are None if not known."""

    path: str
    bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Provenance:
    """Where the facts of the entry are from. ``commit`` is None for what is not in a repository."""

    repository: str
    commit: str | None
    paths: tuple[str, ...]


@dataclass(frozen=True)
class TargetDevice:
    """The device that the binary was made for: PCI vendor and device, and the columns it takes."""

    name: str
    pci_id: str | None
    columns: int | None = None


@dataclass(frozen=True)
class Stack:
    """Bytes of the largest frame of a core's program, and bytes set aside for its stack."""

    needed: int
    reserved: int


@dataclass(frozen=True)
class KernelContract:
    """One kernel.

    ``op`` is the op kind (``whisper_npu.model.kinds``) that it could serve, None if there is none.
    ``family`` says what a kernel needs to be launched (``whisper_npu.backends.npu.families``).
    ``model`` is the name of its NumPy model among those of the folder
    (``whisper_npu.backends.npu.kernel_models``) and ``exactness`` "exact", within what of the model
    outputs are, or what is not known of it.
    ``listed`` are the files of the published inventory that the entry stands for, and
    ``unnamed_files`` counts those that the inventory does not name.
    """

    name: str
    family: str
    op: str | None
    version: int
    tile: Mapping[str, int]
    dtypes: Mapping[str, str]
    layout: str
    arithmetic: Arithmetic
    arguments: tuple[Argument, ...]
    instructions: KernelFile | None
    xclbin: KernelFile | None
    kernel: str
    provenance: Provenance
    known_issues: tuple[str, ...]
    model: str | None
    exactness: str
    device: TargetDevice
    stack: Stack | None
    listed: tuple[str, ...]
    unnamed_files: int

    @property
    def inputs(self) -> tuple[Argument, ...]:
        """Arguments that the host writes, without the instructions."""
        return self._with("input")

    @property
    def outputs(self) -> tuple[Argument, ...]:
        """Arguments that the kernel writes."""
        return self._with("output")

    @property
    def files(self) -> Mapping[str, KernelFile]:
        """The files that a launch needs, by what they are."""
        both = {"xclbin": self.xclbin, "instructions": self.instructions}
        return {what: file for what, file in both.items() if file is not None}

    def _with(self, role: ArgumentRole) -> tuple[Argument, ...]:
        return tuple(argument for argument in self.arguments if argument.role == role)


def contract_from_json(entry: Mapping[str, Any], where: str) -> KernelContract:
    """The contract in an entry that fits the schema. ``where`` is what errors call it.

    Raises KernelError if arguments contradict each other.
    """
    contract = KernelContract(
        name=entry["name"],
        family=entry["family"],
        op=entry["op"],
        version=entry["version"],
        tile=dict(entry["tile"]),
        dtypes=dict(entry["dtypes"]),
        layout=entry["layout"],
        arithmetic=_arithmetic(entry["arithmetic"]),
        arguments=tuple(_argument(argument) for argument in entry["arguments"]),
        instructions=_file(entry["instructions"]),
        xclbin=_file(entry["xclbin"]),
        kernel=entry["kernel"],
        provenance=_provenance(entry["provenance"]),
        known_issues=tuple(entry["known_issues"]),
        model=entry["model"],
        exactness=entry["exactness"],
        device=TargetDevice(**entry["device"]),
        stack=Stack(**entry["stack"]) if entry["stack"] else None,
        listed=tuple(entry["listed"]),
        unnamed_files=entry["unnamed_files"],
    )
    _check_arguments(contract.arguments, where)
    return contract


def _arithmetic(entry: Mapping[str, Any]) -> Arithmetic:
    saturation = entry.get("saturation")
    return Arithmetic(**{**entry, "saturation": tuple(saturation) if saturation else None})


def _argument(entry: Mapping[str, Any]) -> Argument:
    shape = entry.get("shape")
    return Argument(**{**entry, "shape": None if shape is None else tuple(shape)})


def _file(entry: Mapping[str, Any] | None) -> KernelFile | None:
    return KernelFile(**entry) if entry else None


def _provenance(entry: Mapping[str, Any]) -> Provenance:
    return Provenance(entry["repository"], entry["commit"], tuple(entry["paths"]))


def _check_arguments(arguments: tuple[Argument, ...], where: str) -> None:
    for position, argument in enumerate(arguments):
        at = f"{where}.arguments[{position}]"
        if argument.index != position:
            raise KernelError(f"{at}: index is {argument.index}; arguments stand in their order")
        if (argument.group is None) != (argument.direction is None):
            raise KernelError(f"{at}: a buffer has a group and a scalar has none")
