"""The model that is used when none is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from whisper_npu.builtin import model_directory
from whisper_npu.cli import main

SAMPLES = Path(__file__).parents[2] / "samples"


def transcribe(out: Path, *arguments: str) -> str:
    sample = str(SAMPLES / "weather.flac")
    assert main(["transcribe", sample, "-o", str(out), "-f", "json", *arguments]) == 0
    text: str = json.loads((out / "weather.json").read_text())["text"]
    return text


def test_used_with_a_notice_when_no_model_is_named_and_none_was_pulled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = transcribe(tmp_path)
    error = capsys.readouterr().err
    assert error.startswith("whisper-npu: warning: no --model was given and none was pulled: using")
    assert error.endswith("run: whisper-npu pull tiny\n")
    assert error.count("\n") == 1
    assert transcribe(tmp_path, "--model", "demo") == text
    assert capsys.readouterr().err == ""


def test_it_hears_a_sample(tmp_path: Path) -> None:
    expected = json.loads((SAMPLES / "texts.json").read_text())["weather.flac"]["text"]
    assert transcribe(tmp_path, "--model", "demo").strip() == expected


def test_it_is_small() -> None:
    assert sum(file.stat().st_size for file in model_directory("demo").iterdir()) <= 15e6
