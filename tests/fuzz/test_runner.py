"""The runner finds what it is to find, and an input can be made again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.fuzz import runner
from tests.fuzz.runner import Report, run
from tests.fuzz.targets.readers import check_message

ROOT = Path(runner.__file__).parents[2]


class FakeTarget:
    """Inputs are numbers; ``action`` is called with those at 3 and beyond."""

    __name__ = "tests.fuzz.targets.fake"
    SECONDS = 0.2

    def __init__(self, action: Callable[[], Any]) -> None:
        self._action = action

    def mutate(self, chance: Random) -> bytes:
        return chance.randbytes(4)

    def check(self, data: bytes, folder: Path) -> str:
        (folder / "seen").write_bytes(data)
        if data == self.mutate(Random("0/3")):
            self._action()
        return "good"


def _fail() -> None:
    raise IndexError("out of range")


def _loop() -> None:
    while True:
        pass


def _swallow() -> None:
    while True:
        with suppress(Exception):
            _loop()


def _allocate() -> None:
    bytearray(2 << 30)


def _warn() -> None:
    import numpy as np

    np.float32(1e38) * np.float32(10)


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        (_fail, "IndexError"),
        (_loop, "TooSlow"),
        (_swallow, "TooSlow"),
        (_allocate, "MemoryError"),
        (_warn, "RuntimeWarning"),
        (lambda: os.kill(os.getpid(), 11), "the process ended with status"),
        (lambda: os.kill(os.getpid(), signal.SIGSTOP), "no end within 4 s"),
    ],
)
def test_faults_are_found_and_kept(action: Callable[[], Any], kind: str, tmp_path: Path) -> None:
    target = FakeTarget(action)
    report = run(target, 6, keep=tmp_path)
    ((found, numbers),) = report.failures.items()
    assert kind in found
    assert numbers == [3]
    assert report.outcomes["good"] == 5
    assert sum(report.outcomes.values()) == 6
    (kept,) = tmp_path.iterdir()
    assert kept.name == "fake-0-3"
    assert kept.read_bytes() == target.mutate(Random("0/3"))


def test_nothing_is_found_where_there_is_nothing(tmp_path: Path) -> None:
    report = run(FakeTarget(int), 20, first=5, seed=7, keep=tmp_path)
    assert report.outcomes == {"good": 20}
    assert not report.failures
    assert not list(tmp_path.iterdir())
    assert run(FakeTarget(int), 1 << 40, seconds=0.2, keep=tmp_path).seconds < 2


def test_inputs_that_fail_alike_are_counted(tmp_path: Path) -> None:
    report = run(FakeTarget(int), 9, keep=tmp_path, make=lambda number: b"")
    assert report.outcomes == {"good": 9}
    target = FakeTarget(_fail)
    same = target.mutate(Random("0/3"))
    report = run(target, 9, keep=tmp_path, make=lambda number: same)
    assert list(report.failures.values()) == [list(range(9))]
    assert len(list(tmp_path.iterdir())) == 3
    assert "9 x File" in str(report)


def test_messages_for_a_terminal() -> None:
    check_message(ValueError("a line"))
    for text in ("", "two\nlines", "x" * 3000):
        with pytest.raises(AssertionError):
            check_message(ValueError(text))


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "npu_files", "--keep", str(tmp_path / "kept")]

    def outcomes(*options: str) -> str:
        done = subprocess.run(
            [*command, *options], capture_output=True, text=True, check=True, cwd=ROOT
        )
        return done.stdout.split("(")[1].split(")")[0]

    assert outcomes("--runs", "200") == outcomes("--runs", "200")
    assert outcomes("--runs", "200") != outcomes("--runs", "200", "--seed", "1")
    (tmp_path / "input").write_bytes(b"no such file")
    assert outcomes("--input", str(tmp_path / "input")) == "refused 1"
    assert not (tmp_path / "kept").exists()


def test_a_report_names_what_was_slow() -> None:
    report = Report("x", slowest=(1.25, 42))
    assert "slowest 1.25 s (number 42)" in str(report)
