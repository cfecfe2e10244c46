"""``whisper-npu kernels verify`` and ``status`` on the software device."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.support.npu.entries import entry, write_registry
from tests.support.npu.gemm_kernels import SMALL, gemm_json
from whisper_npu.backends.cpu import kernels, status
from whisper_npu.backends.npu import registry, software
from whisper_npu.backends.npu.registry import KERNELS_ENVIRONMENT, SCHEMA_NAME, built_in_folder
from whisper_npu.cli import main

KERNELS = built_in_folder()
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All the kernels there are: one of one shape, one without a model, and a GEMM."""
    monkeypatch.delenv(KERNELS_ENVIRONMENT, raising=False)
    made = tmp_path / "own"
    write_registry(made, entry(), entry(name="silent", model=None), gemm_json(16))
    (made / SCHEMA_NAME).write_text((built_in_folder() / SCHEMA_NAME).read_text())
    monkeypatch.setattr(registry, "shipped_file", lambda name: made / registry.FILE_NAME)
    for module in (kernels, status):
        monkeypatch.setattr(module, "KERNELS", ())
    return made


def evidence(home: Path) -> dict[str, dict]:
    records = json.loads((home / "evidence.json").read_text())["evidence"]
    return {record["kernel"]: record for record in records}


def test_all(capsys: Capture, cache_home: Path) -> None:
    assert main(["kernels", "verify", "--device", "software"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    mine, silent, gemm = captured.out.splitlines()
    assert mine.startswith("mine: verified: 1198 cases, 1396 launches, all outputs equal; ")
    assert re.search(r"; \d+ us a launch, copies \d+\.\d GB/s$", mine)
    assert silent.startswith("silent: not tried: ")
    assert gemm.startswith(f"{SMALL}: verified: 1024 cases, 1048 launches, all outputs equal; ")
    assert set(evidence(cache_home)) == {"mine", SMALL}
    assert all(record["failure"] is None for record in evidence(cache_home).values())


def test_floats_within_their_bound(
    capsys: Capture, folder: Path, cache_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A core that cuts off where the model rounds."""

    def corrupt(count: int, outputs: Sequence[np.ndarray]) -> None:
        outputs[0].view(np.uint16)[0] ^= 1

    monkeypatch.setattr(
        software, "SoftwareDevice", lambda make=software.SoftwareDevice: make(corrupt=corrupt)
    )
    monkeypatch.setattr(registry, "shipped_file", lambda name: KERNELS / registry.FILE_NAME)
    options = ["--device", "software", "--kernels", str(KERNELS / "inventory")]
    assert main(["kernels", "verify", "layernorm_nosqrt", *options]) == 0
    assert re.search(
        r"1204 launches, errors of at most 0\.\d\d% of the accumulated magnitude; ",
        capsys.readouterr().out,
    )
    assert 0 < evidence(cache_home)["layernorm_nosqrt"]["worst_error"] < 2**-7


def test_one_and_its_status(capsys: Capture) -> None:
    assert main(["kernels", "status", "--device", "software"]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["mine", "unverified"],
        ["silent", "unverified"],
        [SMALL, "unverified"],
    ]
    assert main(["kernels", "verify", "mine", "--device", "software"]) == 0
    capsys.readouterr()
    assert main(["kernels", "status", "mine", SMALL, "--device", "software"]) == 0
    mine, gemm = capsys.readouterr().out.splitlines()
    assert mine.split()[:3] == ["mine", "verified", "on"]
    assert mine.endswith("(xclbin absent, instructions absent)")
    assert gemm.split()[1] == "unverified"


def test_status_as_json(capsys: Capture, cache_home: Path) -> None:
    main(["kernels", "verify", "mine", "--device", "software"])
    capsys.readouterr()
    assert main(["kernels", "status", "--device", "software", "--format", "json"]) == 0
    mine, silent, gemm = json.loads(capsys.readouterr().out)
    assert (mine["kernel"], mine["state"]) == ("mine", "verified")
    assert mine["evidence"] == evidence(cache_home)["mine"]
    assert (silent["state"], silent["evidence"]) == ("unverified", None)
    assert gemm["files"] == {"xclbin": "absent"}


def test_a_kernel_that_lies(
    capsys: Capture, cache_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def corrupt(count: int, outputs: Sequence[np.ndarray]) -> None:
        outputs[0][3] ^= 1

    monkeypatch.setattr(
        software, "SoftwareDevice", lambda make=software.SoftwareDevice: make(corrupt=corrupt)
    )
    assert main(["kernels", "verify", "mine", "--device", "software"]) == 5
    line = capsys.readouterr().out
    assert line.startswith("mine: FAILED: random (): outputs differ by up to ")
    assert evidence(cache_home)["mine"]["failure"] in line
    assert main(["kernels", "status", "mine", "--device", "software"]) == 0
    assert capsys.readouterr().out.split()[1:3] == ["failed", "verification"]


@pytest.mark.parametrize("name", ["silent", "nobody"])
def test_a_kernel_that_cannot_be_tried(name: str, capsys: Capture, cache_home: Path) -> None:
    assert main(["kernels", "verify", name, "mine", "--device", "software"]) == 5
    captured = capsys.readouterr()
    assert captured.err.startswith(f"{name}: not tried: ")
    assert captured.err.count("\n") == 1
    assert captured.out.startswith("mine: verified: ")
    assert set(evidence(cache_home)) == {"mine"}


@pytest.mark.parametrize("command", ["verify", "status"])
def test_a_kernel_of_the_inventory_has_its_folder_named(
    command: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "shipped_file", lambda name: KERNELS / registry.FILE_NAME)
    assert main(["kernels", command, "matmul_16x16", "--device", "software"]) == 5
    error = capsys.readouterr().err
    assert "matmul_16x16: no such kernel; there are gemm_int8_16x64x64, " in error
    assert error.endswith(f"one of the inventory: add --kernels {KERNELS / 'inventory'}\n")


def test_a_report(capsys: Capture, cache_home: Path, tmp_path: Path) -> None:
    main(["kernels", "verify", SMALL, "--device", "software"])
    report = tmp_path / "report.json"
    options = ["--device", "software", "--export", str(report)]
    assert main(["kernels", "verify", "mine", "silent", *options]) == 5
    (record,) = json.loads(report.read_text())["evidence"]
    assert record == evidence(cache_home)["mine"]


def test_a_report_that_cannot_be_written(capsys: Capture, tmp_path: Path) -> None:
    options = ["--device", "software", "--export", str(tmp_path / "own/registry.json/report.json")]
    assert main(["kernels", "verify", "mine", *options]) == 4
    assert "report.json: cannot be written: " in capsys.readouterr().err


@pytest.mark.parametrize("names", [[], ["mine"]])
def test_evidence_that_cannot_be_written(
    capsys: Capture, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    assert main(["kernels", "verify", *names, "--device", "software"]) == 4
    error = capsys.readouterr().err
    assert error.startswith("whisper-npu: error: ")
    assert error.endswith("evidence.json: cannot be written: No space left on device\n")


def test_evidence_that_is_damaged(capsys: Capture, cache_home: Path) -> None:
    cache_home.mkdir(parents=True)
    (cache_home / "evidence.json").write_text("{")
    for arguments in (["verify"], ["status"], ["verify", "mine"]):
        assert main(["kernels", *arguments, "--device", "software"]) == 5
        assert "evidence.json: is damaged (" in capsys.readouterr().err


def test_a_folder_of_ones_own(capsys: Capture, tmp_path: Path) -> None:
    folder = write_registry(tmp_path / "theirs", entry(name="theirs"))
    options = ["--device", "software", "--kernels", str(folder)]
    assert main(["kernels", "verify", "theirs", *options]) == 0
    assert capsys.readouterr().out.startswith("theirs: verified: ")
    assert main(["kernels", "status", "theirs", *options]) == 0
    assert capsys.readouterr().out.split()[:2] == ["theirs", "verified"]


@pytest.mark.parametrize("command", ["verify", "status"])
def test_no_npu(command: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyxrt", None)
    assert main(["kernels", command]) == 5
    error = capsys.readouterr().err
    assert error.startswith("whisper-npu: error: ")
    assert error.endswith("run: whisper-npu doctor\n")
