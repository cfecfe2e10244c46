"""``--model`` on a model of another format: converted after one line, and used from then on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.audio_samples import encode
from tests.support.checkpoints import Recipe
from tests.support.formats.ctranslate2 import write_ctranslate2
from tests.support.formats.seeded import load_seeded
from tests.support.signals import noise
from whisper_npu.cli import main


@pytest.fixture
def model(
    seeded_directory: Callable[[Recipe], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    monkeypatch.chdir(tmp_path)
    write_ctranslate2(load_seeded(seeded_directory(Recipe("nano"))), Path("ct2"), "int8")
    Path("good.wav").write_bytes(encode(noise(16000), 16000, "WAV"))
    return "ct2"


def transcribe(*options: str) -> int:
    output = ("--output_format", "json", "--verbose", "False")
    return main(["transcribe", "good.wav", *output, "--language", "en", *options])


def test_one_line_says_so_once(
    model: str, capsys: pytest.CaptureFixture[str], cache_home: Path
) -> None:
    assert transcribe("--model", model) == 0
    said = capsys.readouterr().err
    (folder,) = (cache_home / "converted").iterdir()
    assert said == (
        f"whisper-npu: warning: ct2: is a CTranslate2 folder: it is converted to {folder} (int8), "
        "which later runs use\n"
    )
    first = Path("good.json").read_bytes()
    assert transcribe("--model", "ct2/model.bin") == 0
    assert capsys.readouterr().err == ""
    assert json.loads(Path("good.json").read_bytes())["segments"] == json.loads(first)["segments"]


def test_nothing_is_said_if_quiet(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert transcribe("--model", model, "--quiet") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", ["graph", "plan"])
def test_reports_of_other_formats(
    model: str, command: str, capsys: pytest.CaptureFixture[str], cache_home: Path
) -> None:
    """Nothing is converted for them."""
    assert main([command, "--model", model, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert not (cache_home / "converted").exists()
    assert main([command, "--model", "good.wav"]) == 3
    assert "good.wav: is not a Hugging Face folder" in capsys.readouterr().err
