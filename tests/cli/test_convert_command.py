from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.checkpoints import Recipe
from whisper_npu.cli import main
from whisper_npu.transcriber import Transcriber

ROOT = Path(__file__).parents[2]


@pytest.fixture
def source(seeded_directory: Callable[[Recipe], Path]) -> Path:
    return seeded_directory(Recipe("nano", seed=1))


@pytest.mark.usefixtures("uncalibrated")
def test_converts_and_prints_a_table(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(source), str(tmp_path / "made")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("calibrated on 0 recordings of synthetic speech")
    assert lines[0].split() == ["tensor", "shape", "type", "max", "error", *lines[0].split()[5:]]
    (fc1,) = [line for line in lines if line.startswith("model.encoder.layers.0.fc1.weight")]
    assert " I8 " in fc1
    assert str(tmp_path / "made") in lines[-1]
    Transcriber(tmp_path / "made")


def test_json_has_the_report(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dtype", "float16", "--format", "json"]
    assert main(["convert", str(source), str(tmp_path / "made"), *arguments]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["dtype"] == "float16"
    assert report["nbytes"] == (tmp_path / "made" / "model.safetensors").stat().st_size


def test_quiet_prints_one_line(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--no_calibration", "--quiet"]
    assert main(["convert", str(source), str(tmp_path / "made"), *arguments]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_errors_have_their_exit_codes(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(tmp_path / "absent"), str(tmp_path / "made")]) == 3
    assert "absent" in capsys.readouterr().err
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "notes.txt").write_text("")
    assert main(["convert", str(source), str(tmp_path / "made"), "--force"]) == 4
    assert "notes.txt" in capsys.readouterr().err
