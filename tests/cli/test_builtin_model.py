"""The model that is used when none is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from whisper_npu.cli import main
from whisper_npu.hub.folders import model_directory

SAMPLES = Path(__file__).parents[2] / "samples" / "synthetic"


TEXTS = json.loads((SAMPLES / "texts.json").read_text())


def transcribe(out: Path, *arguments: str, sample: str = "weather.flac") -> str:
    path = SAMPLES / sample
    assert main(["transcribe", str(path), "-o", str(out), "-f", "json", *arguments]) == 0
    text: str = json.loads((out / path.with_suffix(".json").name).read_text())["text"]
    return text.strip()


def test_used_with_a_notice_when_no_model_is_named_and_none_was_pulled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = transcribe(tmp_path, "--verbose", "False")
    error = capsys.readouterr().err
    assert error.startswith("whisper-npu: warning: no --model was given and none was pulled: using")
    assert error.endswith("run: whisper-npu pull tiny\n")
    assert error.count("\n") == 1
    assert transcribe(tmp_path, "--verbose", "False", "--model", "demo") == text
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("sample", TEXTS)
def test_it_hears_the_samples(tmp_path: Path, sample: str, precision: str) -> None:
    heard = transcribe(tmp_path, "--model", "demo", "--precision", precision, sample=sample)
    assert heard == TEXTS[sample]["text"]


def test_it_is_small() -> None:
    assert sum(file.stat().st_size for file in model_directory("demo").iterdir()) <= 15e6
