"""Whether a kernel may be used, computed: from its contract, its files and its errors.

A verdict is about what the kernel computes. That it computes so on this machine is a matter of
verification.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from whisper_npu.backends.npu.binaries.xclbin import Xclbin, read_xclbin
from whisper_npu.backends.npu.contract import KernelContract
from whisper_npu.backends.npu.families import family_of
from whisper_npu.backends.npu.models import MODELS
from whisper_npu.backends.npu.registry import KernelEntry
from whisper_npu.backends.npu.verdict_measures import Measure
from whisper_npu.errors import KernelError

# Phoenix and Hawk Point, the NPUs of the first generation.
DEVICE_PCI_ID = "1022:1502"
# Columns with a shim DMA; a partition of more is refused by the driver (ENOSPC).
DEVICE_COLUMNS = 4
# The metadata of these kernels declares bo0 ... bo4; XRT crashes on more buffers than declared.
DECLARED_BUFFERS = 5


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


def judge(entry: KernelEntry) -> Verdict:
    """The verdict on one kernel. The same contract and files always give the same one."""
    contract = entry.contract
    reasons = [*_misfits(contract), *_file_misfits(entry)]
    measures: tuple[Measure, ...] = ()
    if contract.model not in MODELS:
        detail = contract.exactness.removeprefix("unknown detail: ")
        reasons.append(f"there is no model of what it computes; not known: {detail}")
    elif contract.op is None:
        reasons.append("serves no op of Whisper")
    else:
        try:
            judgement = family_of(contract).judge()
        except KernelError as error:
            reasons.append(str(error))
        else:
            if judgement is None:
                reasons.append(f"there are no measures for the family {contract.family}")
            else:
                measures = judgement.measures
                if not all(measure.passed for measure in measures):
                    reasons.append(judgement.summary)
    return Verdict(contract.name, contract.op, not reasons, tuple(reasons), measures)


def _misfits(contract: KernelContract) -> Iterator[str]:
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
