"""Verdicts: what a contract and its files say, and what ``verdicts.json`` of the folder says."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.npu import xclbin_builder
from tests.support.npu.entries import (
    entry,
    matmul_entry,
    verdict_record,
    write_registry,
    write_verdicts,
)
from tests.support.npu.gemm_kernels import gemm_entry
from whisper_npu.backends.npu.kernel_evidence import contract_hash
from whisper_npu.backends.npu.registry import KernelEntry, built_in_folder, read_folder
from whisper_npu.backends.npu.verdicts import (
    Measure,
    RecordedVerdict,
    judge,
    read_verdicts,
)
from whisper_npu.errors import KernelError

DATA = Path(__file__).parents[2] / "data/npu"


def good(made: KernelEntry) -> RecordedVerdict:
    """A verdict with nothing against the kernel."""
    return RecordedVerdict(contract_hash(made), (), (Measure("any", "error", 0.0, 0.0),))


# What is recorded


def test_our_own_are_usable_with_numbers() -> None:
    verdicts = read_verdicts(built_in_folder())
    for kernel in read_folder(built_in_folder()):
        verdict = judge(kernel, verdicts[kernel.contract.name])
        assert (verdict.usable, verdict.reasons) == (True, ())
        assert verdict.reason == "within all limits"
        assert any(measure.limit == 0 for measure in verdict.measures)
        assert all(measure.passed for measure in verdict.measures)


def test_a_verdict_is_that_of_the_file(tmp_path: Path) -> None:
    write_verdicts(write_registry(tmp_path, entry()), verdict_record())
    (made,) = read_folder(tmp_path)
    verdict = judge(made, read_verdicts(tmp_path)["mine"])
    assert (verdict.kernel, verdict.op, verdict.usable) == ("mine", "product_int8", False)
    assert verdict.reasons == ("loses half",)
    (measure,) = verdict.measures
    assert (measure.value, measure.limit, measure.passed) == (0.5, 0, False)
    write_verdicts(tmp_path, verdict_record(usable=True, reasons=[]))
    assert judge(made, read_verdicts(tmp_path)["mine"]).usable


def test_a_folder_need_have_no_verdicts(tmp_path: Path) -> None:
    assert read_verdicts(tmp_path) == {}


def test_a_verdict_on_another_contract_is_none() -> None:
    changed = matmul_entry(version=4)
    verdict = judge(changed, good(matmul_entry()))
    assert verdict.reasons == ("the verdict in verdicts.json is on another contract of this name",)
    assert (verdict.usable, verdict.measures) == (False, ())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": None, "exactness": "unknown detail: all"}, "no model of .*; not known: all$"),
        ({"op": None}, "^serves no op of Whisper$"),
        ({}, r"was not measured: no verdict in verdicts\.json$"),
    ],
)
def test_without_a_verdict_a_kernel_of_a_fixed_shape_is_not_usable(
    changes: dict[str, Any], reason: str
) -> None:
    verdict = judge(matmul_entry(**changes), None)
    assert not verdict.usable
    (only,) = verdict.reasons
    assert re.search(reason, only)


def test_a_family_that_serves_the_op_needs_no_verdict() -> None:
    """What its kernels give is verified against the op itself."""
    assert judge(gemm_entry(64), None).usable
    assert not judge(gemm_entry(64, op=None), None).usable


@pytest.mark.parametrize(
    ("records", "place"),
    [
        ([verdict_record(contract="00")], r"data\.verdicts\[0\]\.contract must match"),
        ([verdict_record(usable=1)], r"data\.verdicts\[0\]\.usable must be boolean"),
        ([verdict_record(reasons="no")], r"data\.verdicts\[0\]\.reasons must be array"),
        ([verdict_record(measures=[{"case": "x"}])], r"measures\[0\] must contain"),
        ([verdict_record(note="x")], r"data\.verdicts\[0\] must not contain"),
        ([verdict_record(), verdict_record()], r"verdicts\[1\]: a second verdict on mine"),
        ([verdict_record(usable=True)], r"verdicts\[0\]: a kernel is usable if there is no reason"),
        ([verdict_record(reasons=[])], r"verdicts\[0\]: a kernel is usable if there is no reason"),
    ],
)
def test_verdicts_that_do_not_fit_are_refused(
    tmp_path: Path, records: list[dict[str, Any]], place: str
) -> None:
    write_verdicts(tmp_path, *records)
    with pytest.raises(KernelError, match=place) as caught:
        read_verdicts(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/verdicts.json: ")


@pytest.mark.parametrize("text", ["", "[1]", '{"schema": 2, "verdicts": []}', "{"])
def test_what_are_no_verdicts_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "verdicts.json").write_text(text)
    with pytest.raises(KernelError, match=r"verdicts\.json: "):
        read_verdicts(tmp_path)


# The contract


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": {"name": "x", "pci_id": "1022:17f0"}}, "x is 1022:17f0, not 1022:1502"),
        ({"device": {"name": "x", "pci_id": "1022:1502", "columns": 8}}, "takes 8 columns of 4"),
        ({"stack": {"needed": 1025, "reserved": 1024}}, "take 1,025 bytes of a stack of 1,024"),
    ],
)
def test_a_right_kernel_of_another_device_is_refused(changes: dict[str, Any], reason: str) -> None:
    made = matmul_entry(**changes)
    verdict = judge(made, good(made))
    assert not verdict.usable
    (only,) = verdict.reasons
    assert reason in only
    # And one of a family that needs no verdict.
    (only,) = judge(gemm_entry(64, **changes), None).reasons
    assert reason in only
    # What is recorded too is not said twice.
    recorded = replace(good(made), reasons=(only, "slow"))
    assert judge(made, recorded).reasons == (only, "slow")
    assert judge(made, recorded).reason == f"{only}; slow"


# Files


def _with_xclbin(tmp_path: Path) -> tuple[KernelEntry, Path]:
    folder = write_registry(tmp_path, entry())
    (folder / "mine").mkdir()
    (made,) = read_folder(folder)
    return made, folder / "mine/mine.xclbin"


def test_an_xclbin_that_fits_says_nothing(tmp_path: Path) -> None:
    made, file = _with_xclbin(tmp_path)
    shutil.copy(DATA / "four_columns.xclbin", file)
    assert judge(made, good(made)).reasons == ()


def _file(width: int, *, kernel: str = "MLIR_AIE", kernel_id: str = "0x901") -> bytes:
    partition = bytearray(xclbin_builder.partition(b"pdi"))
    partition[32:34] = width.to_bytes(2, "little")
    arguments = "".join(
        f'<arg name="a{i}" addressQualifier="1" id="{i}" size="0x8" offset="0x0" type="void*"/>'
        for i in range(5)
    )
    xml = xclbin_builder.KERNEL_XML.replace('name="K"', f'name="{kernel}"')
    xml = xml.replace('id="3"', 'id="9"').replace("0x901", kernel_id)
    xml = xml.replace("<instance", arguments + "<instance")
    sections = [
        (xclbin_builder.EMBEDDED_METADATA, xml.encode()),
        (xclbin_builder.AIE_PARTITION, bytes(partition)),
    ]
    return xclbin_builder.xclbin(*sections)


@pytest.mark.parametrize(
    ("data", "reasons"),
    [
        (_file(4), []),
        (_file(8), ["partition is 8 columns wide, the device 4"]),
        (_file(1), ["partition is 1 columns wide, not 4"]),
        (_file(4, kernel="OTHER"), ["no kernel of the name MLIR_AIE"]),
        (_file(4, kernel_id="0x902"), ["no PDI of its xclbin configures kernel id 0x902"]),
        (b"xclbin1", ['begins with "xclbin2"']),
        (
            xclbin_builder.xclbin(),
            ["has no AIE partition", "no kernel of the name MLIR_AIE"],
        ),
    ],
    ids=["fits", "wide", "narrow", "kernel", "id", "magic", "empty"],
)
def test_an_xclbin_is_judged_by_its_own_ids(
    tmp_path: Path, data: bytes, reasons: list[str]
) -> None:
    made, file = _with_xclbin(tmp_path)
    file.write_bytes(data)
    found = judge(made, good(made)).reasons
    assert len(found) == len(reasons), found
    for reason, part in zip(found, reasons, strict=True):
        assert part in reason


def test_an_xclbin_that_declares_too_few_arguments_is_refused(tmp_path: Path) -> None:
    made, file = _with_xclbin(tmp_path)
    file.write_bytes(_file(4).replace(b'id="4"', b'id="7"'))
    assert judge(made, good(made)).reasons == ("its xclbin does not declare bo1",)


def test_a_wrong_hash_is_a_reason(tmp_path: Path) -> None:
    made = entry() | {"instructions": {"path": "insts.bin", "sha256": "0" * 64}}
    write_registry(tmp_path, made)
    (tmp_path / "insts.bin").write_bytes(b"x")
    (read,) = read_folder(tmp_path)
    assert judge(read, good(read)).reasons == ("insts.bin is not the file of the contract (hash)",)
