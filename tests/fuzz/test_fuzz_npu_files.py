from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import fuzz_npu_files as fuzz

ROOT = Path(fuzz.__file__).parents[2]


def test_a_few_inputs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", fuzz.__name__, "--runs", "200", "--keep", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {
        name: int(count)
        for name, count in (entry.split(": ") for entry in done.stdout.strip().split(", "))
    }
    assert sum(counts.values()) == 200
    assert counts["refused"] > 50
    assert counts["read"] > 20
    assert counts["interpreted"] > 20
    assert not list(tmp_path.iterdir())


def test_an_input_is_that_of_its_number() -> None:
    assert fuzz.make_input(0, 7) == fuzz.make_input(0, 7)
    assert len({fuzz.make_input(0, number) for number in range(50)}) > 25


def test_another_exception_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(paths: list[str], form: str) -> int:
        raise IndexError

    limits: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(fuzz, "inspect", fail)
    monkeypatch.setattr(fuzz.resource, "setrlimit", lambda *limit: limits.append(limit))
    assert fuzz.run_batch(0, range(3), tmp_path) == {"FAILED": 3}
    assert limits == [(fuzz.resource.RLIMIT_AS, (1 << 30, 1 << 30))]
    assert (tmp_path / "fuzz-0-2.bin").read_bytes() == fuzz.make_input(0, 2)


def test_an_endless_loop_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def loop(paths: list[str], form: str) -> int:
        while True:
            pass

    monkeypatch.setattr(fuzz, "inspect", loop)
    monkeypatch.setattr(fuzz, "SECONDS_PER_INPUT", 0.05)
    monkeypatch.setattr(fuzz.resource, "setrlimit", lambda *limit: None)
    assert fuzz.run_batch(0, range(1), tmp_path) == {"FAILED": 1}
