from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.npu.entries import entry, verdict_record, write_registry, write_verdicts
from whisper_npu.backends import opening
from whisper_npu.backends.npu.registry import KERNELS_ENVIRONMENT, inventory_folder
from whisper_npu.cli import main


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KERNELS_ENVIRONMENT, raising=False)


def test_the_table_has_a_line_and_a_reason_for_every_kernel(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["kernels", "list", "--all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["kernel", "op", "files", "verification", "usable"]
    at = next(i for i, line in enumerate(lines) if line.startswith("matmul_16x16 "))
    assert lines[at].split() == ["matmul_16x16", "product_int8", "absent", "unverified", "no"]
    assert lines[at + 1].startswith("    requantises before K is summed")
    (mel,) = (line for line in lines if line.startswith("mel_other_variants "))
    assert "none named" in mel
    assert max(map(len, lines)) <= 100


def test_without_all_the_inventory_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernels", "list", "--format", "json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert main(["kernels", "list", "--all", "--format", "json"]) == 0
    everything = {kernel["name"]: kernel for kernel in json.loads(capsys.readouterr().out)}
    assert len(everything) == len(plain) + 32
    assert all(everything[kernel["name"]] == kernel for kernel in plain)
    assert [k["name"] for k in plain if not k["name"].startswith("cpu_")] == [
        "gemm_int8_64x64x64",
        "gemm_int8_16x64x64",
    ]
    gelu = everything["gelu_2048"]
    assert gelu["folder"] == str(inventory_folder())
    assert gelu["usable"] is False
    assert gelu["reasons"][0].startswith("represents only [-1, 1]")
    assert gelu["measures"][0]["quantity"] == "error of the largest output"
    assert gelu["measures"][0]["passed"] is False


def test_the_folder_of_the_inventory_is_like_any_other(capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for options in (["--all"], ["--kernels", str(inventory_folder())]):
        assert main(["kernels", "list", *options, "--format", "json"]) == 0
        captured = capsys.readouterr()
        found.append(captured.out)
        assert "replaces" not in captured.err
    assert found[0] == found[1]


def test_json_has_the_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_verdicts(write_registry(tmp_path, entry()), verdict_record())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/insts.bin").write_bytes(b"x")
    assert main(["kernels", "list", "--format", "json", "--kernels", str(tmp_path)]) == 0
    kernels = {kernel["name"]: kernel for kernel in json.loads(capsys.readouterr().out)}
    mine = kernels["mine"]
    assert mine["folder"] == str(tmp_path)
    assert mine["files"] == {"xclbin": "absent", "instructions": "present"}
    assert mine["verification"] == "unverified"
    assert mine["usable"] is False
    assert mine["reasons"] == ["loses half"]
    assert mine["measures"] == [
        {"case": "all 127", "quantity": "error", "value": 0.5, "limit": 0, "passed": False}
    ]
    assert kernels["gemm_int8_16x64x64"]["op"] == "product_int8"


def test_verdicts_that_do_not_fit_end_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_verdicts(write_registry(tmp_path, entry()), verdict_record(usable=True))
    assert main(["kernels", "list", "--kernels", str(tmp_path)]) == 5
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1].startswith(f"whisper-npu: error: {tmp_path}/verdicts.json")


def test_what_is_verified(
    tmp_path: Path, cache_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the device that is asked for, and on no other."""
    write_registry(tmp_path, entry(), entry(name="theirs"))
    options = ["--kernels", str(tmp_path), "--format", "json"]
    main(["kernels", "verify", "mine", "--device", "software", "--kernels", str(tmp_path)])
    capsys.readouterr()

    def states(*arguments: str) -> dict[str, str]:
        assert main(["kernels", "list", *options, *arguments]) == 0
        return {k["name"]: k["verification"] for k in json.loads(capsys.readouterr().out)}

    found = states("--device", "software")
    assert found.pop("mine") == "verified"
    assert set(found.values()) == set(states().values()) == {"unverified"}
    write_registry(tmp_path, entry(version=9), entry(name="theirs"))
    assert states("--device", "software")["mine"] == "unverified"


def test_an_npu_that_does_not_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "accel0").touch()
    monkeypatch.setattr(opening, "_NODES", tmp_path)
    monkeypatch.setitem(sys.modules, "pyxrt", None)
    assert main(["kernels", "list", "--all"]) == 0
    captured = capsys.readouterr()
    assert captured.out.count(" unverified ") > 30
    assert captured.err.startswith("whisper-npu: nothing is verified without an NPU: AMD's Python ")
    assert captured.err.count("\n") == 1
    assert main(["kernels", "list", "--device", "npu"]) == 5
    assert capsys.readouterr().err.startswith("whisper-npu: error: AMD's Python module pyxrt ")


def test_a_replaced_kernel_is_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_registry(tmp_path, entry(name="gelu_2048"))
    assert main(["kernels", "list", "--kernels", str(tmp_path)]) == 0
    assert "replaces" not in capsys.readouterr().err
    assert main(["kernels", "list", "--all", "--kernels", str(tmp_path)]) == 0
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
