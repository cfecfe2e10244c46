"""Whole transcriptions through AMD's user space and the emulated driver, in strict sync.

Evidence of level 2 and 3 (docs/xrt-traps.md): no hardware.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.npu.emulator import REPOSITORY, Emulator

pytestmark = pytest.mark.npu

RECORDINGS = REPOSITORY / "samples"
SAMPLES = [*sorted(RECORDINGS.glob("synthetic/*.flac")), RECORDINGS / "jfk.flac"]
# A short one, for the rest.
SAMPLE = RECORDINGS / "synthetic/weather.flac"

# Both runs are by the same Python and NumPy: what differs is who computes the products.
TRANSCRIBE = """
import json, sys
from whisper_npu import Transcriber
from whisper_npu.backends.npu.manager import KernelManager
from whisper_npu.backends.opening import open_device
device, *files = sys.argv[1:]
if device == "npu":
    names = ("gemm_int8_64x64x64", "gemm_int8_16x64x64")
    found = KernelManager(open_device("npu")).verify(*names)
    assert all(evidence.passed for evidence in found.values()), found
transcriber = Transcriber("demo", device=device, precision="int8", check_rate=0.01)
options = dict(language="en", beam_size=2)
print(json.dumps([transcriber.transcribe(file, **options).to_dict() for file in files]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("transcription")


def transcribe(folder: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    # The kernels of the emulator; evidence in a folder of this test.
    monkeypatch.delenv("WHISPER_NPU_KERNELS", raising=False)
    monkeypatch.setenv("WHISPER_NPU_HOME", str(folder / "home"))
    emulator = Emulator(folder)
    return json.loads(emulator.output(TRANSCRIBE, device, *SAMPLES, strict=1).splitlines()[-1])


def without_placement(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in result.items() if k != "placement"} for result in results]


@pytest.mark.usefixtures("_emulator_is_there")
def test_samples_are_those_of_numpy_to_the_bit(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_npu = transcribe(folder, "npu", monkeypatch)
    on_numpy = transcribe(folder, "cpu", monkeypatch)
    assert without_placement(on_npu) == without_placement(on_numpy)
    for result in on_npu:
        placement: Mapping[str, Any] = result["placement"]
        assert placement["fallbacks"] == []
        products = placement["ops"]["product_int8"]
        assert "numpy" not in products
        assert sum(products.values()) == placement["launches"] > 0
    assert sum(result["placement"]["checks"] for result in on_npu) > 0
    assert [result["placement"]["device"] for result in on_numpy] == [None] * len(SAMPLES)


@pytest.mark.usefixtures("_emulator_is_there")
@pytest.mark.parametrize("fault", ["error", "abort", "hang"])
def test_a_launch_that_goes_wrong_changes_nothing_but_where_the_op_ran(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setenv("WHISPER_NPU_HOME", str(folder / "home"))
    transcribe(folder, "npu", monkeypatch)  # makes the evidence
    code = TRANSCRIBE.replace('if device == "npu":', "if False:")
    emulator = Emulator(folder)
    options = {"strict": 1, "faults": f"20:{fault}", "tdr_ms": 200}
    done = emulator.run(code, "npu", SAMPLE, **options)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout.splitlines()[-1])
    (plain,) = json.loads(emulator.output(code, "cpu", SAMPLE).splitlines()[-1])
    assert without_placement([result]) == without_placement([plain])
    (event,) = result["placement"]["fallbacks"]
    assert event["kernel"].startswith("gemm_int8")
    assert result["placement"]["ops"]["product_int8"]["numpy"] >= 1
