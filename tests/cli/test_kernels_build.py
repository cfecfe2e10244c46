from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.cpu_library import cpu_home as cpu_home
from tests.support.cpu_library import require_compiler
from whisper_npu.backends.cpu import verify_library
from whisper_npu.backends.cpu.build import find_build, source_folder
from whisper_npu.backends.cpu.kernels import KERNELS
from whisper_npu.backends.cpu.library import Library, load_library
from whisper_npu.backends.cpu.library_evidence import CpuEvidenceStore
from whisper_npu.backends.cpu.op_case import OpCase
from whisper_npu.backends.cpu.records import CpuKernel
from whisper_npu.cli import main
from whisper_npu.files.whole import file_sha256


def test_what_was_built_and_verified_is_not_again(
    cpu_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_library, "verify_library", None)
    assert main(["kernels", "build"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(".so: was built before")
    assert "; in use: " in lines[1]
    assert len(lines) == 2 + len(CpuEvidenceStore().all())
    assert all(": verified: " in line for line in lines[2:])


def test_a_kernel_that_fails(
    cpu_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (cpu_home / "cpu" / "evidence.json").unlink()

    def run_case(
        library: Library, kernel: CpuKernel, case: OpCase, expected: object, beyond: int = 0
    ) -> tuple[str | None, float]:
        return ("5 of 6 values differ" if kernel.name == "cpu_gelu" else None), 0.0

    monkeypatch.setattr(verify_library, "run_case", run_case)
    assert main(["kernels", "build"]) == 5
    known = CpuEvidenceStore().all().values()
    failed = {evidence.kernel for evidence in known if not evidence.passed}
    assert failed == {"cpu_gelu"}
    out = capsys.readouterr().out
    assert "cpu_gelu (scalar): FAILED: random (1,), 1 threads: 5 of 6 values differ" in out
    assert "cpu_add (scalar): verified: " in out


def test_without_a_compiler(
    cache_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    assert main(["kernels", "build"]) == 5
    captured = capsys.readouterr()
    assert captured.err.startswith("whisper-npu: error: no C++ compiler: looked for ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_the_list_shows_them(cpu_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    require_compiler()

    def listed() -> tuple[list[str], str]:
        assert main(["kernels", "list"]) == 0
        said = capsys.readouterr()
        lines = said.out.splitlines()
        line = next(found.split() for found in lines if found.startswith("cpu_product_int8 "))
        return line, said.err

    line, error = listed()
    assert line == ["cpu_product_int8", "product_int8", "present", "verified", "yes"]
    assert "CPU kernels" not in error
    (cpu_home / "cpu" / "library.json").unlink()
    line, error = listed()
    assert line == ["cpu_product_int8", "product_int8", "absent", "unverified", "yes"]
    assert "whisper-npu: CPU kernels are not built: run whisper-npu kernels build\n" in error


def test_the_first_use_is_said_on_stderr(
    cpu_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cpu_home / "cpu" / "evidence.json").unlink()
    build = find_build()
    assert build is not None
    isa = load_library(build.path).isa
    said = f"whisper-npu: warning: the kernels for this CPU ({isa}) are used for the first time: "
    for expected in (f"{said}verifying them\n", ""):
        assert main(["plan", "--model", "tiny", "--phase", "step"]) == 0
        assert capsys.readouterr().err == expected


def _doctor(capsys: pytest.CaptureFixture[str]) -> str:
    main(["doctor"])
    text = capsys.readouterr().out
    main(["doctor", "--format", "json"])
    found = json.loads(capsys.readouterr().out)["cpu_kernels"]
    line = text.splitlines()[-2 if found["fix"] else -1]
    assert line.endswith(found["found"])
    return line


def test_doctor_says_what_there_is_of_them(
    cpu_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = find_build()
    assert build is not None
    isa = load_library(build.path).isa
    count = len(CpuEvidenceStore().find(build.sha256, load_library(build.path).cpu, isa))
    there = f"CPU kernels    {build.path} for {isa}: {count}"
    assert _doctor(capsys) == f"ok     {there} verified"
    (cpu_home / "cpu" / "evidence.json").unlink()
    assert _doctor(capsys) == f"ok     {there} unverified"
    with monkeypatch.context() as off:
        off.setenv("WHISPER_NPU_CPU_ISA", "none")
        assert _doctor(capsys).startswith("-      CPU kernels    CPU kernels are switched off: ")
    build.path.chmod(0o757)
    assert _doctor(capsys).startswith(f"WRONG  CPU kernels    {build.path}: can be written by any")
    build.path.unlink()
    assert _doctor(capsys).startswith("WRONG  CPU kernels    CPU kernels are not built: run whisp")


def test_status_shows_them_and_verify_says_who_does_it(
    cpu_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["cpu_gelu", "cpu_attention_int8"]
    assert main(["kernels", "status", *names, "--device", "software", "--format", "json"]) == 0
    for name, found in zip(names, json.loads(capsys.readouterr().out), strict=True):
        assert found["kernel"] == name
        assert found["state"] in ("verified", "unverified")
        assert (found["files"], found["evidence"]) == ({"library": "present"}, None)
    assert main(["kernels", "verify", "cpu_gelu", "--device", "software"]) == 5
    said = (
        "cpu_gelu: not tried: is verified when it is first used, and by whisper-npu kernels build\n"
    )
    assert capsys.readouterr().err == said
    assert main(["kernels", "status", "cpu_tan", "--device", "software"]) == 5
    error = capsys.readouterr().err
    assert "cpu_tan: no such kernel; there are " in error
    assert "cpu_gelu, " in error
    assert "gemm_int8_16x64x64, " in error


def test_the_list_has_one_that_failed(cpu_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build = find_build()
    assert build is not None
    library = load_library(build.path)
    store = CpuEvidenceStore()
    evidence = store.find(file_sha256(build.path), library.cpu, library.isa)["cpu_gelu"]
    store.record(replace(evidence, failure="wrong"))
    assert main(["kernels", "list", "--format", "json"]) == 0
    listed = {kernel["name"]: kernel for kernel in json.loads(capsys.readouterr().out)}
    assert {name for name in listed if name.startswith("cpu_")} == {k.name for k in KERNELS}
    assert listed["cpu_gelu"] == {
        "name": "cpu_gelu",
        "op": "gelu",
        "folder": str(source_folder().parents[1]),
        "files": {"library": "present"},
        "verification": "failed verification",
        "usable": True,
        "reasons": [],
        "measures": [],
    }
