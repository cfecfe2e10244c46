"""What ``transcribe`` chooses by itself, and what it says of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from tests.support.checkpoints import Recipe
from tests.support.cpu_library import cpu_home as cpu_home
from tests.support.signals import noise
from whisper_npu.backends.cpu.library import ISA_ENVIRONMENT, _libraries
from whisper_npu.cli import main
from whisper_npu.convert import convert

Capture = pytest.CaptureFixture[str]

SUMMARY = re.compile(
    r"whisper-npu: (?P<name>\S+): 1\.0 s in \d+\.\d\d s, \d+\.\d times real time; "
    r"(?P<precision>\w+) \((?P<reason>[^()]+)\); ops: (?P<shares>.+)\n"
)


@pytest.fixture(scope="module")
def floats(seeded_directory: Callable[[Recipe], Path]) -> Path:
    return seeded_directory(Recipe("nano", seed=1))


@pytest.fixture(scope="module")
def integers(floats: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "int8"
    return convert(floats, folder, calibrate=False).dest


def transcribe(model: Path, folder: Path, *arguments: str) -> dict[str, object]:
    """The placement in the JSON of a second of noise."""
    audio = folder / "noise.wav"
    soundfile.write(audio, noise(16000), 16000)
    options = ["--model", str(model), "--language", "en", "--temperature", "0"]
    options += ["--temperature_increment_on_fallback", "None", "-f", "json", "-o", str(folder)]
    assert main(["transcribe", str(audio), *options, *arguments]) == 0
    placement: dict[str, object] = json.loads((folder / "noise.json").read_text())["placement"]
    return placement


REASON = "the model was converted for int8"


def test_integers_on_kernels_are_int8(
    cpu_home: Path, integers: Path, tmp_path: Path, capsys: Capture
) -> None:
    placement = transcribe(integers, tmp_path)
    isa = placement["instruction_set"]
    assert (placement["precision"], placement["precision_reason"]) == ("int8", REASON)
    found = SUMMARY.fullmatch(capsys.readouterr().err)
    assert found is not None
    assert found["name"] == str(tmp_path / "noise.wav")
    assert (found["precision"], found["reason"]) == ("int8", REASON)
    shares = re.fullmatch(rf"([\d.]+)% CPU kernels \({isa}\), ([\d.]+)% NumPy", found["shares"])
    assert shares is not None
    assert float(shares[1]) + float(shares[2]) == pytest.approx(100)
    ops = placement["ops"]
    assert isinstance(ops, dict)
    total = sum(sum(kernels.values()) for kernels in ops.values())
    numpy = sum(kernels.get("numpy", 0) for kernels in ops.values())
    assert float(shares[2]) == pytest.approx(100 * numpy / total, abs=0.06)


def test_floats_are_float32(cpu_home: Path, floats: Path, tmp_path: Path) -> None:
    placement = transcribe(floats, tmp_path)
    reason = "the model's weights are not INT8"
    assert (placement["precision"], placement["precision_reason"]) == ("float32", reason)
    assert placement["instruction_set"] is not None


def test_integers_without_kernels_are_int8(integers: Path, tmp_path: Path, capsys: Capture) -> None:
    placement = transcribe(integers, tmp_path)
    assert placement["precision"] == "int8"
    assert placement["instruction_set"] is None
    found = SUMMARY.fullmatch(capsys.readouterr().err)
    assert found is not None
    assert found["reason"] == REASON
    assert found["shares"] == "100.0% NumPy"


def test_integers_on_a_set_without_a_measured_gain_are_int8(
    cpu_home: Path, integers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _libraries.clear()
    monkeypatch.setenv(ISA_ENVIRONMENT, "scalar")
    try:
        placement = transcribe(integers, tmp_path)
    finally:
        _libraries.clear()
    assert (placement["precision"], placement["precision_reason"]) == ("int8", REASON)
    assert placement["instruction_set"] == "scalar"


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_what_is_asked_for_is_taken(
    cpu_home: Path, floats: Path, tmp_path: Path, precision: str
) -> None:
    placement = transcribe(floats, tmp_path, "--precision", precision)
    assert (placement["precision"], placement["precision_reason"]) == (precision, "asked for")


@pytest.mark.parametrize("argument", ["--quiet", "--verbose=False"])
def test_no_summary_is_shown_where_no_segments_are(
    integers: Path, tmp_path: Path, capsys: Capture, argument: str
) -> None:
    transcribe(integers, tmp_path, argument)
    assert capsys.readouterr().err == ""
