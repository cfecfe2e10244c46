"""Two programs that want the NPU at once: the second waits, fails or falls back, as asked."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.npu.emulator import REPOSITORY, Emulator, environment

pytestmark = pytest.mark.npu

SAMPLE = REPOSITORY / "samples/synthetic/weather.flac"
KERNELS = ("gemm_int8_64x64x64", "gemm_int8_16x64x64")
# Takes all contexts until its standard input ends.
HOLD = """
held = []
try:
    while True:
        held.append(Gemm(sys.argv[1]))
except RuntimeError:
    print(len(held), flush=True)
sys.stdin.read()
"""


class Programs:
    """The command line on one device of two contexts, for which the kernels are verified."""

    def __init__(self, emulator: Emulator, folder: Path) -> None:
        self.emulator, self.folder = emulator, folder
        self.environment = environment() | {"WHISPER_NPU_HOME": str(folder / "home")}
        self.environment.pop("WHISPER_NPU_KERNELS", None)
        self.finish(self.start("kernels", "verify", *KERNELS))

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        command = self.emulator.command("whisper-npu", *arguments, contexts=2)
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment
        )

    def finish(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Exit code and what it said on standard error."""
        _, err = process.communicate(timeout=300)
        return process.returncode, err

    def transcribe(self, name: str, *options: str) -> subprocess.Popen[str]:
        self.output = self.folder / name
        return self.start(
            "transcribe", SAMPLE, "--language", "en", "--temperature", "0", "--output_format",
            "json", "--output_dir", self.output, *options,
        )  # fmt: skip

    @property
    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.output / "weather.json").read_text())
        return found


@pytest.fixture
def programs(emulator: Emulator, tmp_path: Path) -> Programs:
    return Programs(emulator, tmp_path)


def hold(programs: Programs, xclbin: Path) -> subprocess.Popen[str]:
    holder = programs.emulator.start(HOLD, xclbin, contexts=2)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "2\n"
    return holder


def test_the_second_waits(programs: Programs, xclbin: Path) -> None:
    holder = hold(programs, xclbin)
    second = programs.transcribe("second", "--device", "npu")
    time.sleep(3)
    assert second.poll() is None
    holder.communicate("")
    assert programs.finish(second)[0] == 0
    placement = programs.result["placement"]
    assert placement["fallbacks"] == []
    assert placement["launches"] > 0


def test_the_second_fails_or_falls_back_as_asked(programs: Programs, xclbin: Path) -> None:
    holder = hold(programs, xclbin)
    code, err = programs.finish(programs.transcribe("strict", "--device", "npu"))
    assert code == 5
    last = err.splitlines()[-1]
    assert last.startswith("whisper-npu: error: kernel gemm_int8_")
    assert "; none was free for 10 s (" in last
    assert last.endswith("; end the other program or try again later")
    assert f"(process {holder.pid})" in last
    assert not (programs.output / "weather.json").exists()

    options = ("--device", "npu", "--allow_fallback", "True")
    code, err = programs.finish(programs.transcribe("falls_back", *options))
    assert code == 0
    found = programs.result
    placement = found.pop("placement")
    # Once for each kernel, not for each op.
    kernels = {event["kernel"] for event in placement["fallbacks"]}
    assert len([line for line in err.splitlines() if "from now on" in line]) == len(kernels)
    assert len(placement["fallbacks"]) > 10 * len(kernels)
    assert {event["reason"] for event in placement["fallbacks"]} == {"no context"}
    assert placement["ops"]["product_int8"].keys() == {"numpy"}
    assert placement["launches"] == 0
    holder.communicate("")

    code, _ = programs.finish(programs.transcribe("numpy", "--precision", "int8"))
    assert code == 0
    expected = programs.result
    del expected["placement"]
    assert found == expected
