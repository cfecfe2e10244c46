"""``whisper-npu transcribe``: the options that say what to compute on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import soundfile

from tests.cli.fake import FakeTranscriber
from tests.support.checkpoints import Recipe
from tests.support.npu.gemm_kernels import SMALL, evidence_of, gemm_folder
from tests.support.signals import noise
from whisper_npu.backends.machine_options import MachineOptions
from whisper_npu.backends.npu.kernel_evidence import NpuEvidenceStore
from whisper_npu.backends.npu.registry import KERNELS_ENVIRONMENT, read_folder
from whisper_npu.backends.npu.software import SoftwareDevice
from whisper_npu.cli import main, transcribe
from whisper_npu.cli.machine import THREAD_VARIABLES

Capture = pytest.CaptureFixture[str]
DEFAULTS = {
    "device": "cpu",
    "precision": "auto",
    "allow_fallback": False,
    "check": "full",
    "check_rate": 1e-3,
    "cpu_kernels": None,
    "kernels": (),
    "threads": None,
}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KERNELS_ENVIRONMENT, raising=False)
    for name in THREAD_VARIABLES:
        monkeypatch.setenv(name, "1")


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Mapping[str, Any]]:
    """What the transcriber is made with."""
    monkeypatch.chdir(tmp_path)
    machines: list[Mapping[str, Any]] = []

    def load(model: str, machine: MachineOptions) -> FakeTranscriber:
        machines.append(vars(machine))
        return FakeTranscriber()

    monkeypatch.setattr(transcribe, "load", load)
    return machines


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        ([], {}),
        (["--device", "npu"], {"device": "npu"}),
        (["--precision", "int8"], {"precision": "int8"}),
        (["--cpu_kernels", "True"], {"cpu_kernels": True}),
        (["--cpu-kernels=False"], {"cpu_kernels": False}),
        (["--allow_fallback", "True"], {"allow_fallback": True}),
        (["--allow-fallback=True"], {"allow_fallback": True}),
        (["--check", "sample"], {"check": "sample"}),
        (["--check_rate", "0.5"], {"check_rate": 0.5}),
        (["--kernels", "a", "--kernels", "b"], {"kernels": ("a", "b")}),
        (["--threads", "0"], {"threads": None}),
        (["--threads", "3"], {"threads": 3}),
    ],
)
def test_options_are_passed_on(
    passed: list[Mapping[str, Any]], arguments: list[str], changed: dict[str, Any]
) -> None:
    assert main(["transcribe", "--model=fake", "a.wav", *arguments]) == 0
    assert passed == [{**DEFAULTS, **changed}]


def test_a_number_of_threads_is_checked_before_anything_is_loaded(
    passed: list[Mapping[str, Any]], capsys: Capture
) -> None:
    assert main(["transcribe", "--model=fake", "a.wav", "--threads", "257"]) == 2
    assert "--threads must be a whole number from 1 to 256, not 257" in capsys.readouterr().err
    assert passed == []


@pytest.fixture
def nano(seeded_directory: Callable[[Recipe], Path]) -> str:
    return str(seeded_directory(Recipe("nano", seed=1)))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--device", "tpu"], 2, "--device must be one of cpu, npu, auto"),
        (["--precision", "fp4"], 2, "--precision must be one of auto, float32, int8, not 'fp4'"),
        (["--check", "2"], 2, "--check must be one of full, sample, not '2'"),
        (["--check_rate", "2"], 2, "--check_rate must be between 0 and 1, not 2.0"),
        (["--threads", "257"], 2, "--threads must be a whole number from 1 to 256, not 257"),
        (["--device=software", "--precision=float32"], 2, "--precision 'float32' does not go"),
        (["--kernels", "nowhere", "--device=software"], 5, "nowhere/registry.json: no such file"),
    ],
)
def test_values_that_an_option_does_not_take(
    nano: str,
    capsys: Capture,
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
) -> None:
    output = ["-o", str(tmp_path)]
    assert main(["transcribe", "--model", nano, "a.wav", *output, *arguments]) == code
    error = capsys.readouterr().err
    assert error.startswith(f"whisper-npu: error: {message}")
    assert error.count("\n") == 1


def test_no_npu(
    nano: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyxrt", None)
    arguments = ["--model", nano, "a.wav", "-o", str(tmp_path)]
    for more in ([], ["--allow_fallback", "True"]):
        assert main(["transcribe", *arguments, "--device", "npu", *more]) == 5
        error = capsys.readouterr().err
        assert error.startswith("whisper-npu: error: ")
        assert error.endswith("run: whisper-npu doctor\n")


class TestPlacement:
    """The JSON output says where the ops ran."""

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        soundfile.write("a.wav", noise(16000), 16000)
        return gemm_folder(tmp_path / "kernels")

    def transcribe(self, nano: str, folder: Path, *more: str) -> int:
        decoding = ["--temperature_increment_on_fallback", "None", "--beam_size", "None"]
        device = ["--device", "software", "--kernels", str(folder)]
        arguments = ["--model", nano, "a.wav", "-f", "json", "--quiet", "--language", "en"]
        clip = ["--clip_timestamps", "0,0.5"]
        return main(["transcribe", *arguments, *decoding, *clip, *device, *more])

    def test_on_the_device(self, nano: str, folder: Path) -> None:
        for entry in read_folder(folder):
            NpuEvidenceStore().record(evidence_of(SoftwareDevice().identity, entry))
        assert self.transcribe(nano, folder, "--check_rate", "1") == 0
        placement = json.loads(Path("a.json").read_text())["placement"]
        assert (placement["device"], placement["precision"]) == ("software", "int8")
        assert placement["launches"] == placement["checks"] > 0
        assert SMALL in placement["ops"]["product_int8"]
        assert "numpy" not in placement["ops"]["product_int8"]
        assert placement["fallbacks"] == []
        assert {"mel", "encoder", "cross_kv", "prefill"} <= set(placement["seconds"])
        assert all(seconds > 0 for seconds in placement["seconds"].values())

    def test_not_verified(self, nano: str, folder: Path, capsys: Capture) -> None:
        assert self.transcribe(nano, folder) == 5
        error = capsys.readouterr().err
        assert " ops cannot run on the NPU (" in error
        assert error.endswith(
            "verify its kernels with whisper-npu kernels verify, or let NumPy run them with "
            "--allow_fallback\n"
        )
        assert not Path("a.json").exists()
