"""Endurance on the emulator: many transcriptions in a process, and many processes that are killed.

Nothing may be left over: not in the process, whose buffers, contexts and memory stay as they are
after the first tenth, and not on the device, which every later process has at once.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.npu.emulator import Emulator, environment
from tests.support.checkpoints import Recipe

pytestmark = [pytest.mark.npu, pytest.mark.long]

KERNELS = ("gemm_int8_64x64x64", "gemm_int8_16x64x64")
TRANSCRIPTIONS, PER_TRANSCRIBER = 1000, 50
KILLS = 200

TRANSCRIBE = """
import gc, re
from whisper_npu import Transcriber
noise = (np.random.default_rng(1).standard_normal(32000) * 0.1).astype(np.float32)

def transcribe(transcriber):
    result = transcriber.transcribe(noise, language="en", temperature=0.0, sample_len=5)
    assert not result.placement.fallbacks and result.placement.launches, result.placement
    return result
"""
# Prints a line of JSON at the first transcription and at every tenth of them.
MANY = f"""{TRANSCRIBE}
model, count, per_transcriber = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
first = transcriber = None
for i in range(count):
    # As a server does that loads models: some closed, some merely dropped.
    if i % per_transcriber == 0:
        if transcriber and i % (2 * per_transcriber) == 0:
            transcriber.close()
        transcriber = None
        # The NPU has been given back by now. A model is in cycles of references: that its arrays
        # are gone too takes the collector.
        gc.collect()
        transcriber = Transcriber(model, device="npu", check_rate=0.01)
    result = transcribe(transcriber)
    first = first or result
    assert result == first, i
    if i == 0 or (i + 1) % (count // 10) == 0:
        with open("/proc/self/status") as file:
            resident = int(re.search(r"VmRSS:\\s+(\\d+)", file.read())[1])
        print(json.dumps({{**counters(), "transcriptions": i + 1, "resident_kib": resident}}))
"""
# Says when it has the device, then transcribes as often as it is told to.
ONE = f"""{TRANSCRIBE}
transcriber = Transcriber(sys.argv[1], device="npu")
print("open", flush=True)
for _ in range(int(sys.argv[2])):
    transcribe(transcriber)
"""


@pytest.fixture
def model(seeded_directory: Callable[[Recipe], Path]) -> Path:
    return seeded_directory(Recipe("nano", seed=1))


@pytest.fixture
def verified(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """A device for which the kernels of the set-up are verified."""
    monkeypatch.delenv("WHISPER_NPU_KERNELS", raising=False)
    command = emulator.command("whisper-npu", "kernels", "verify", *KERNELS)
    subprocess.run(command, check=True, env=environment())
    return emulator


def finish(process: subprocess.Popen[str]) -> str:
    """What it prints; it must end well."""
    out, err = process.communicate(timeout=3600)
    assert process.returncode == 0, f"exit {process.returncode}\n{out}\n{err}"
    return out


def test_many_transcriptions_leave_nothing_over(verified: Emulator, model: Path) -> None:
    process = verified.start(MANY, model, str(TRANSCRIPTIONS), str(PER_TRANSCRIBER))
    lines = finish(process).splitlines()
    print(*lines, sep="\n")
    states: list[dict[str, Any]] = [json.loads(line) for line in lines]
    live = {(state["bos"], state["bo_bytes"], state["contexts"]) for state in states[1:]}
    assert len(live) == 1, "buffers or contexts are not given back"
    resident = [state["resident_kib"] for state in states]
    assert max(resident) < 1.1 * resident[1], "memory grows"


def test_killed_processes_leave_the_device_to_others(verified: Emulator, model: Path) -> None:
    """Three of four are killed at work on the device, a fourth at any moment since its start."""
    chance = random.Random(1)
    began = time.perf_counter()
    finish(verified.start(ONE, model, "1"))
    usual = time.perf_counter() - began
    for i in range(1, KILLS + 1):
        process = verified.start(ONE, model, "1000")
        if i % 4:
            assert process.stdout is not None
            if process.stdout.readline() != "open\n":
                finish(process)
            time.sleep(chance.uniform(0.0, 0.5 * usual))
        else:
            time.sleep(chance.uniform(0.0, usual))
        assert process.poll() is None, finish(process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(verified.start(ONE, model, "3"))


def test_two_processes_at_once(verified: Emulator, model: Path) -> None:
    both = [verified.start(ONE, model, "5") for _ in range(2)]
    for process in both:
        finish(process)
