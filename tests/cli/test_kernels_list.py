from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.npu.entries import entry, write_registry
from whisper_npu.cli import main
from whisper_npu.npu.registry import ENVIRONMENT


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)


def test_the_table_has_a_line_and_a_reason_for_every_kernel(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["kernels", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["kernel", "op", "files", "verification", "usable"]
    at = next(i for i, line in enumerate(lines) if line.startswith("matmul_16x16 "))
    assert lines[at].split() == ["matmul_16x16", "linear_int8", "absent", "unverified", "no"]
    assert lines[at + 1].startswith("    requantises before K is summed")
    (mel,) = (line for line in lines if line.startswith("mel_other_variants "))
    assert "none named" in mel
    assert max(map(len, lines)) <= 100


def test_json_has_the_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_registry(tmp_path, entry())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/insts.bin").write_bytes(b"x")
    assert main(["kernels", "list", "--format", "json", "--kernels", str(tmp_path)]) == 0
    kernels = {kernel["name"]: kernel for kernel in json.loads(capsys.readouterr().out)}
    mine = kernels["mine"]
    assert mine["folder"] == str(tmp_path)
    assert mine["files"] == {"xclbin": "absent", "instructions": "present"}
    assert mine["verification"] == "unverified"
    assert mine["usable"] is False
    assert mine["reasons"]
    assert mine["measures"][0]["limit"] == 0
    assert mine["measures"][0]["passed"] is False
    assert kernels["amd_gemm_17f0_20"]["op"] == "linear_int8"


def test_a_replaced_kernel_is_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_registry(tmp_path, entry(name="gelu_2048"))
    assert main(["kernels", "list", "--kernels", str(tmp_path)]) == 0
    error = capsys.readouterr().err
    assert error.startswith(f"whisper-npu: kernel gelu_2048 of {tmp_path} replaces that of ")


def test_a_registry_that_does_not_fit_ends_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_registry(tmp_path, entry(version=0))
    assert main(["kernels", "list", "--kernels", str(tmp_path)]) == 5
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"whisper-npu: error: {tmp_path}/registry.json: ")
    assert "data.kernels[0].version" in captured.err
    assert captured.err.count("\n") == 1
