from __future__ import annotations

from pathlib import Path

import pytest

from tests.cpu_library import cpu_home as cpu_home
from tests.cpu_library import require_compiler
from whisper_npu.backends.cpu import verify
from whisper_npu.backends.cpu.case import Case
from whisper_npu.backends.cpu.evidence import read_evidence
from whisper_npu.backends.cpu.library import Library
from whisper_npu.cli import main


def test_what_was_built_and_verified_is_not_again(
    cpu_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "verify_library", None)
    assert main(["kernels", "build"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(".so: was built before")
    assert "; in use: " in lines[1]
    assert len(lines) == 2 + len(read_evidence())
    assert all(": verified: " in line for line in lines[2:])


def test_a_kernel_that_fails(
    cpu_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (cpu_home / "cpu" / "evidence.json").unlink()

    def run_case(library: Library, case: Case) -> tuple[str | None, float]:
        return ("5 of 6 values differ" if case.op.kind == "gelu" else None), 0.0

    monkeypatch.setattr(verify, "run_case", run_case)
    assert main(["kernels", "build"]) == 5
    failed = {evidence.kernel for evidence in read_evidence() if not evidence.passed}
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

    def line() -> list[str]:
        assert main(["kernels", "list"]) == 0
        lines = capsys.readouterr().out.splitlines()
        return next(found.split() for found in lines if found.startswith("cpu_linear_int8 "))

    assert line() == ["cpu_linear_int8", "linear_int8", "present", "verified", "yes"]
    (cpu_home / "cpu" / "library.json").unlink()
    assert line() == ["cpu_linear_int8", "linear_int8", "absent", "unverified", "yes"]
