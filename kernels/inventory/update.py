"""Compute the verdicts on all NPU kernels, and write them and kernels/INVENTORY.md.

python -m kernels.inventory.update            # write
python -m kernels.inventory.update --check    # fail if one of the files is out of date

Verdicts are written to ``verdicts.json`` of kernels/ (our own) and of kernels/inventory. They
depend on contracts and models alone, and not on whether anybody has the binaries.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from whisper_npu.backends.npu.kernel_evidence import contract_hash
from whisper_npu.backends.npu.registry import (
    KernelEntry,
    built_in_folder,
    inventory_folder,
    read_folder,
)
from whisper_npu.backends.npu.verdicts import (
    FILE_NAME,
    UNKNOWN,
    RecordedVerdict,
    contract_misfits,
    read_verdicts,
)
from whisper_npu.errors import KernelError

from . import document
from .measures import MEASURES

# Of a measure that another processor or NumPy computes.
_TOLERANCE = 1e-3


def compute(entry: KernelEntry) -> RecordedVerdict:
    """The verdict on a kernel by its contract and its model."""
    contract = entry.contract
    reasons = [*contract_misfits(contract)]
    judgement = None
    if contract.model is None:
        detail = contract.exactness.removeprefix(UNKNOWN)
        reasons.append(f"there is no model of what it computes; not known: {detail}")
    elif contract.op is None:
        reasons.append("serves no op of Whisper")
    elif contract.family not in MEASURES:
        reasons.append(f"there are no measures for the family {contract.family}")
    else:
        try:
            judgement = MEASURES[contract.family](entry)
        except KernelError as error:
            reasons.append(str(error))
    measures = () if judgement is None else judgement.measures
    if judgement is not None and not all(measure.passed for measure in measures):
        reasons.append(judgement.summary)
    return RecordedVerdict(contract_hash(entry), tuple(reasons), measures)


def to_json(verdicts: Mapping[str, RecordedVerdict]) -> str:
    """The text of ``verdicts.json``."""
    records: list[dict[str, Any]] = [
        {
            "kernel": name,
            "contract": verdict.contract,
            "usable": not verdict.reasons,
            "reasons": list(verdict.reasons),
            "measures": [asdict(measure) for measure in verdict.measures],
        }
        for name, verdict in verdicts.items()
    ]
    return json.dumps({"schema": 1, "verdicts": records}, indent=1) + "\n"


def alike(a: RecordedVerdict, b: RecordedVerdict) -> bool:
    """Whether two verdicts say the same, the last digits of measures left aside."""
    return (a.contract, a.reasons, len(a.measures)) == (
        b.contract,
        b.reasons,
        len(b.measures),
    ) and all(
        (x.case, x.quantity, x.limit) == (y.case, y.quantity, y.limit)
        and math.isclose(x.value, y.value, rel_tol=_TOLERANCE, abs_tol=1e-9)
        for x, y in zip(a.measures, b.measures, strict=True)
    )


def out_of_date() -> Iterator[Path]:
    """The files that are not what would be written."""
    for folder in (built_in_folder(), inventory_folder()):
        computed = {entry.contract.name: compute(entry) for entry in read_folder(folder)}
        recorded = read_verdicts(folder)
        same = list(computed) == list(recorded)
        if not same or not all(alike(computed[name], recorded[name]) for name in computed):
            yield folder / FILE_NAME
    file = built_in_folder() / document.FILE_NAME
    if not file.exists() or file.read_text(encoding="utf-8") != document.render():
        yield file


def write() -> None:
    """Write all three files."""
    for folder in (built_in_folder(), inventory_folder()):
        computed = {entry.contract.name: compute(entry) for entry in read_folder(folder)}
        (folder / FILE_NAME).write_text(to_json(computed), encoding="utf-8")
    file = built_in_folder() / document.FILE_NAME
    file.write_text(document.render(), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    if not parser.parse_args(argv).check:
        write()
        return 0
    stale = list(out_of_date())
    for file in stale:
        print(f"{file} is out of date: run python -m kernels.inventory.update", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
