"""The text of kernels/INVENTORY.md, from registries, recorded verdicts and CPU kernels' records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from whisper_npu.backends.cpu.kernels import KERNELS
from whisper_npu.backends.cpu.records import CpuKernel
from whisper_npu.backends.npu.contract import EXACT, KernelContract
from whisper_npu.backends.npu.registry import built_in_folder, inventory_folder, read_folder
from whisper_npu.backends.npu.verdicts import (
    DECLARED_BUFFERS,
    DEVICE_COLUMNS,
    DEVICE_PCI_ID,
    UNKNOWN,
    Measure,
    Verdict,
    read_verdicts,
)
from whisper_npu.errors import KernelError

from .measures import FEATURE_LIMIT, RELATIVE_LIMIT

FILE_NAME = "INVENTORY.md"

INTRODUCTION = """\
# Kernels

Written by `python -m kernels.inventory.update` from the registries of `kernels` (our own) and
`kernels/inventory` (all others), from verdicts that it computes and keeps in `verdicts.json` beside
each, and from the records of the CPU kernels (`whisper_npu/backends/cpu/kernels`); a test fails if
one of these files is out of date. Do not edit it.

The kernels are those of the inventory of 30 October 2025 in the repository Unicorn-Amanuensis
("69 XCLBINs", of which it names 19 and counts the rest), AMD's three GEMM files that it names,
sources that belong to them, and our own. None of the binaries is here: whoever has them puts them
into `kernels/inventory`, or into a copy of it, under the paths that its `registry.json` gives, and
names that folder with `--kernels` or in `WHISPER_NPU_KERNELS`.

A kernel with an *exact* model has one in NumPy (`kernels/inventory/models`, of our own
`kernels/src/tiles.py`) that gives every bit of its output, as its source defines it; it was never
compared with a device. What could not be found out is said at the others."""

LIMITS = f"""\
## How the verdicts come about

Models run on made-up inputs (`kernels/inventory/speech_like.py`; no recording and no model's
weights enter) and are compared with the specification of the op (`whisper_npu/ops`). The host
around a kernel is taken to be the best that the contract allows (`kernels/inventory/measures.py`).
A kernel is usable if all of this holds:

* The device is PCI {DEVICE_PCI_ID}, the partition has at most {DEVICE_COLUMNS} columns, there are
  at most {DECLARED_BUFFERS} buffers, and local arrays fit into the core's stack.
* An integer product has the integers of the exact sum over all of K. An op may then fall back to
  NumPy without a change of the result.
* Other ops err by at most {RELATIVE_LIMIT:.3f} of the largest output: a step of int8 each for
  rounding the input and the output. Bfloat16 needs half of one.
* Mel features, which span 2, err by at most {FEATURE_LIMIT:.4f}: a step of int8."""

FAMILIES = {
    "gemm_int8": """\
Our own: one launch sums over all of K in int32 and scales nothing, which the host does at the end.
Evidence: level 1 (the tile kernel's source against its model, bit for bit) to level 3 (whole
launches by AMD's user space on an emulated driver that carries out the instruction stream). No
xclbin for hardware exists.""",
    "matmul": """\
Products of square int8 tiles. Sums are exact in int32 within a tile, but leave it as int8: divided
by 128, rounded down and clamped. What a larger K needs, the int32 sum, is lost at every tile, and
no choice of scales brings it back: small values lose their low bits, large ones saturate.""",
    "gelu": """\
A table with one entry for each int8. Its scale is 1/127 on both sides, so that it covers -1 to 1;
inputs beyond become -1 or 1. In that range it errs by the rounding of input and output.""",
    "layer_norm": """\
Two in int8, one in bfloat16. In int8 the standard deviation is a whole number, which of a row that
fills the range is about 30 and with an outlier less than 10. The host chooses the scale of the gain
so that least is lost. The one in bfloat16 has neither gain nor bias.""",
    "attention": """\
One head on one tile: scores, softmax and the sum of the values in one launch. There is no way to
join the softmax of several tiles, so that a query sees the 16 or 64 keys of its own tile. The
weights of a row share 127 units. In `attention_64x64` the exponential has a step from 1 back to 157
between -39 and -40.""",
    "mel": """\
One frame of 400 samples a launch, through an FFT of 512 points in 16 bits. Whisper's features are
the logarithm of the power in 80 bands of Slaney's mel scale, of an FFT of 400, relative to the
loudest of the file. These kernels give 7 bits of the power, of its root or of a magnitude, in HTK's
bands of 512 points or in bands of equal width. They would take the place of two ops, `stft_power`
and `mel_log10`.""",
    "passthrough": """\
Copies, made to see whether anything runs. Some of the files have no design in them.""",
    "validation": """\
Files of XRT's and the driver's own tests. One entry stands for all.""",
    "amd_gemm": """\
AMD's files for the self-test of XRT on NPUs of the second generation. Their folders are named after
the PCI device 17f0 and its revision; Phoenix is 1502.""",
}

CPU = """\
Our own, for the processor itself: compiled by `whisper-npu kernels build`
(`whisper_npu/backends/cpu`) in a variant for every instruction set, and used where they were
verified against the op that specifies them, which is their model (`whisper_npu/ops`)."""


def render() -> str:
    """The file's text."""
    found: list[tuple[KernelContract, Verdict]] = []
    for folder in (built_in_folder(), inventory_folder()):
        verdicts = read_verdicts(folder)
        for contract in (entry.contract for entry in read_folder(folder)):
            if contract.name not in verdicts:
                raise KernelError(f"{folder}: no verdict is recorded on {contract.name}")
            recorded = verdicts[contract.name]
            reasons, measures = recorded.reasons, recorded.measures
            made = Verdict(contract.name, contract.op, not reasons, reasons, measures)
            found.append((contract, made))
    parts = [INTRODUCTION, _counts(found), LIMITS, "## All kernels", _table(found), "## By family"]
    for family, text in FAMILIES.items():
        members = [(c, v) for c, v in found if c.family == family]
        parts += [f"### {family}", text, *(_details(c, v) for c, v in members)]
    parts += ["### cpu", CPU, *(_cpu_details(kernel) for kernel in KERNELS)]
    parts += ["## Not known", _not_known(found)]
    return "\n\n".join(parts) + "\n"


def _counts(found: Sequence[tuple[KernelContract, Verdict]]) -> str:
    listed = sum(
        len(c.listed) + c.unnamed_files for c, _ in found if c.device.pci_id == DEVICE_PCI_ID
    )
    others = sum(len(c.listed) for c, _ in found if c.device.pci_id != DEVICE_PCI_ID)
    usable = [c.name for c, v in found if v.usable] + [kernel.name for kernel in KERNELS]
    return (
        f"{len(found) + len(KERNELS)} entries stand for {listed} files of the inventory and "
        f"{others} of AMD's. Usable: {', '.join(usable) or 'none'}."
    )


def _table(found: Sequence[tuple[KernelContract, Verdict]]) -> str:
    rows = [
        (
            f"`{contract.name}`",
            contract.op or "-",
            _model(contract.model, contract.exactness),
            _error(verdict.measures),
            "yes" if verdict.usable else "no",
            verdict.reason,
            _files(contract),
            _provenance(contract),
        )
        for contract, verdict in found
    ]
    rows += [
        (
            f"`{kernel.name}`",
            kernel.op,
            _model(kernel.model, kernel.exactness),
            "-",
            "yes",
            "within all limits",
            "not in the inventory",
            kernel.sources[0],
        )
        for kernel in KERNELS
    ]
    head = ("kernel", "serves", "model", "error", "usable", "reason", "files", "from")
    return _rows(head, rows)


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )


def _model(model: str | None, exactness: str) -> str:
    if model is None:
        return "none"
    return f"`{model}`, {'exact' if exactness == EXACT else 'see below'}"


def _error(measures: Sequence[Measure]) -> str:
    """The first measure with a limit, which is of speech-like input."""
    limited = next((measure for measure in measures if measure.limit is not None), None)
    return "-" if limited is None else f"{limited.value:.2g} ({limited.quantity})"


def _files(contract: KernelContract) -> str:
    names = [f"`{name}`" for name in contract.listed]
    if contract.unnamed_files:
        names.append(f"{contract.unnamed_files} not named")
    return ", ".join(names) or "not in the inventory"


def _provenance(contract: KernelContract) -> str:
    source = contract.provenance
    where = f"{source.repository.rsplit('/', 1)[-1]}@{source.commit[:7]}" if source.commit else ""
    return " ".join(filter(None, (where, source.paths[0].rsplit("/", 1)[-1])))


def _details(contract: KernelContract, verdict: Verdict) -> str:
    parts = [f"#### {contract.name}", _facts(contract)]
    if verdict.measures:
        rows = [(m.case, m.quantity, f"{m.value:.2g}", _limit(m)) for m in verdict.measures]
        parts.append(_rows(("input", "what", "value", "limit"), rows))
    return "\n\n".join(parts)


def _facts(contract: KernelContract) -> str:
    sizes = [
        f"{a.name} {a.role} {a.bytes:,} B" for a in (*contract.inputs, *contract.outputs) if a.bytes
    ]
    return _list_facts(
        contract.arithmetic.text,
        contract.exactness,
        f"{contract.layout}." + (f" Buffers: {', '.join(sizes)}." if sizes else ""),
        contract.known_issues,
        contract.provenance.paths,
    )


def _cpu_details(kernel: CpuKernel) -> str:
    paths = [f"kernels/src/cpu/{source}" for source in kernel.sources]
    facts = _list_facts(
        kernel.arithmetic, kernel.exactness, f"{kernel.layout}.", kernel.notes, paths
    )
    return f"#### {kernel.name}\n\n{facts}"


def _list_facts(
    arithmetic: str, exactness: str, layout: str, notes: Sequence[str], paths: Sequence[str]
) -> str:
    facts = [
        f"Computes: {arithmetic}.",
        *([f"Exactness: {exactness}."] if exactness.startswith("within") else []),
        f"Layout: {layout}",
        *notes,
        "Sources: " + ", ".join(f"`{path}`" for path in paths) + ".",
    ]
    return "\n".join(f"* {fact}" for fact in facts)


def _limit(measure: Measure) -> str:
    if measure.limit is None:
        return ""
    return f"{measure.limit:.2g}, {'met' if measure.passed else 'not met'}"


def _not_known(found: Sequence[tuple[KernelContract, Verdict]]) -> str:
    return "\n".join(
        f"* `{c.name}`: {c.exactness.removeprefix(UNKNOWN)}."
        for c, _ in found
        if c.exactness.startswith(UNKNOWN)
    )
