"""Whether a kernel may be used: what its contract and files say, and what was computed of it.

How far a kernel is from the op that it could serve is measured once, by its model, and kept in
``verdicts.json`` of its folder. That it computes so on this machine is a matter of verification.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from whisper_npu.backends.npu.binaries.xclbin import Xclbin, read_xclbin
from whisper_npu.backends.npu.contract import KernelContract
from whisper_npu.backends.npu.families import family_of
from whisper_npu.backends.npu.kernel_evidence import contract_hash
from whisper_npu.backends.npu.registry import KernelEntry, read_checked
from whisper_npu.errors import KernelError

FILE_NAME = "verdicts.json"
SCHEMA_NAME = "verdicts.schema.json"

# What ``exactness`` of a contract begins with where not all is known.
UNKNOWN = "unknown detail: "

# Phoenix and Hawk Point, the NPUs of the first generation.
DEVICE_PCI_ID = "1022:1502"
# Columns with a shim DMA; a partition of more is refused by the driver (ENOSPC).
DEVICE_COLUMNS = 4
# The metadata of these kernels declares bo0 ... bo4; XRT crashes on more buffers than declared.
DECLARED_BUFFERS = 5


@dataclass(frozen=True)
class Measure:
    """One number; ``limit`` is the largest that is acceptable, None if it only explains others."""

    case: str
    quantity: str
    value: float
    limit: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the number is acceptable."""
        return self.limit is None or self.value <= self.limit


@dataclass(frozen=True)
class RecordedVerdict:
    """What ``verdicts.json`` says of a kernel; ``contract`` is the hash of what it was made of."""

    contract: str
    reasons: tuple[str, ...]
    measures: tuple[Measure, ...]


@dataclass(frozen=True)
class Verdict:
    """``reasons`` say why a kernel is not usable; ``measures`` are the numbers behind them."""

    kernel: str
    op: str | None
    usable: bool
    reasons: tuple[str, ...]
    measures: tuple[Measure, ...]

    @property
    def reason(self) -> str:
        """All reasons in one line."""
        return "; ".join(self.reasons) or "within all limits"


def read_verdicts(folder: Path) -> dict[str, RecordedVerdict]:
    """The verdicts that a kernel folder has in ``verdicts.json``, by kernel; it need have none.

    Raises KernelError that names the file and the place in it.
    """
    file = folder / FILE_NAME
    if not file.exists():
        return {}
    found: dict[str, RecordedVerdict] = {}
    for position, record in enumerate(read_checked(file, SCHEMA_NAME)["verdicts"]):
        where = f"{file}: verdicts[{position}]"
        if record["kernel"] in found:
            raise KernelError(f"{where}: a second verdict on {record['kernel']}")
        if record["usable"] == bool(record["reasons"]):
            raise KernelError(f"{where}: a kernel is usable if there is no reason against it")
        measures = tuple(Measure(**measure) for measure in record["measures"])
        found[record["kernel"]] = RecordedVerdict(
            record["contract"], tuple(record["reasons"]), measures
        )
    return found


def judge(entry: KernelEntry, recorded: RecordedVerdict | None) -> Verdict:
    """The verdict on one kernel: what its contract and its files say, and what is recorded."""
    contract = entry.contract
    reasons = [*contract_misfits(contract), *_file_misfits(entry)]
    measures: tuple[Measure, ...] = ()
    if recorded is not None and recorded.contract == contract_hash(entry):
        # Those of the contract are among them.
        reasons = list(dict.fromkeys([*reasons, *recorded.reasons]))
        measures = recorded.measures
    elif recorded is not None:
        reasons.append(f"the verdict in {FILE_NAME} is on another contract of this name")
    elif contract.op in family_of(entry).kinds:
        # What kernels of such a family give is verified against the op itself.
        pass
    elif contract.model is None:
        detail = contract.exactness.removeprefix(UNKNOWN)
        reasons.append(f"there is no model of what it computes; not known: {detail}")
    elif contract.op is None:
        reasons.append("serves no op of Whisper")
    else:
        reasons.append(f"how far it is from the op was not measured: no verdict in {FILE_NAME}")
    return Verdict(contract.name, contract.op, not reasons, tuple(reasons), measures)


def contract_misfits(contract: KernelContract) -> Iterator[str]:
    """What the contract itself says against a launch."""
    device, stack = contract.device, contract.stack
    if device.pci_id != DEVICE_PCI_ID:
        yield f"made for another device: {device.name} is {device.pci_id}, not {DEVICE_PCI_ID}"
    if (device.columns or 0) > DEVICE_COLUMNS:
        yield f"takes {device.columns} columns of {DEVICE_COLUMNS}"
    if stack and stack.needed > stack.reserved:
        yield (
            f"its local arrays take {stack.needed:,} bytes of a stack of {stack.reserved:,}, "
            "behind which its DMA buffers lie"
        )
    buffers = len(contract.inputs) + len(contract.outputs)
    if buffers > DECLARED_BUFFERS:
        yield f"needs {buffers} buffers where its metadata declares {DECLARED_BUFFERS}"


def _file_misfits(entry: KernelEntry) -> Iterator[str]:
    """What the files say, as far as they are there."""
    for what, status in entry.file_status().items():
        if status == "wrong hash":
            yield f"{entry.contract.files[what].path} is not the file of the contract (hash)"
        elif status == "present" and what == "xclbin":
            file = entry.contract.files[what]
            try:
                yield from _xclbin_misfits(read_xclbin(entry.path(file)), entry.contract)
            except KernelError as error:
                yield str(error)


def _xclbin_misfits(xclbin: Xclbin, contract: KernelContract) -> Iterator[str]:
    if xclbin.partition is None:
        yield "its xclbin has no AIE partition"
    else:
        width, columns = xclbin.partition.column_width, contract.device.columns
        if width > DEVICE_COLUMNS:
            yield f"its xclbin's partition is {width} columns wide, the device {DEVICE_COLUMNS}"
        elif columns is not None and width != columns:
            yield f"its xclbin's partition is {width} columns wide, not {columns}"
    kernel = next((k for k in xclbin.kernels if k.name == contract.kernel), None)
    if kernel is None:
        yield f"its xclbin has no kernel of the name {contract.kernel}"
        return
    pdis = xclbin.partition.pdis if xclbin.partition else ()
    ids = {i for pdi in pdis for group in pdi.cdo_groups for i in group.dpu_kernel_ids}
    if kernel.dpu_kernel_id is not None and kernel.dpu_kernel_id not in ids:
        yield f"no PDI of its xclbin configures kernel id 0x{kernel.dpu_kernel_id:x}"
    declared = {argument.index for argument in kernel.arguments}
    missing = [argument.name for argument in contract.arguments if argument.index not in declared]
    if missing:
        yield f"its xclbin does not declare {', '.join(missing)}"
