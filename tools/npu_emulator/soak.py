"""Endurance of the NPU path on the emulator: many transcriptions, killed processes, two at once.

    python tools/npu_emulator/soak.py --model DIR [--transcriptions 1000] [--kills 200]

Uses the kernels of the set-up, and verifies them first. Prints live buffers, contexts and memory as
they go, and what became of the processes. Takes a small model, such as one of
tools/make_checkpoint.py --size nano.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import tempfile
import time
from pathlib import Path

RUN = Path(__file__).resolve().parent / "run"
KERNELS = ("gemm_int8_64x64x64", "gemm_int8_16x64x64")

# Counters are those of the emulated driver for this process.
MANY = """
import json, re, sys
import numpy as np
from whisper_npu import Transcriber
model, count = sys.argv[1], int(sys.argv[2])
noise = (np.random.default_rng(1).standard_normal(32000) * 0.1).astype(np.float32)

def state():
    with open("/sys/module/amdxdna/emulator/counters") as file:
        counters = json.load(file)
    with open("/proc/self/status") as file:
        resident = int(re.search(r"VmRSS:\\s+(\\d+)", file.read())[1])
    return counters, resident

first = None
for i in range(count):
    if i % 50 == 0:
        transcriber = None
        transcriber = Transcriber(model, device="npu")
    result = transcriber.transcribe(noise, language="en", temperature=0.0, sample_len=5)
    assert not result.placement.fallbacks and result.placement.launches
    first = first or result
    assert result == first
    if i in (0, 9, 99, 249, 499, 749) or i == count - 1:
        counters, resident = state()
        live = ", ".join(f"{counters[k]} {k}" for k in ("bos", "bo_bytes", "contexts", "launches"))
        print(f"{i + 1} transcriptions: {live}, RSS {resident} KiB", flush=True)
"""

ONE = """
import sys
import numpy as np
from whisper_npu import Transcriber
noise = (np.random.default_rng(1).standard_normal(32000) * 0.1).astype(np.float32)
transcriber = Transcriber(sys.argv[1], device="npu")
print("open", flush=True)
for _ in range(int(sys.argv[2])):
    result = transcriber.transcribe(noise, language="en", temperature=0.0, sample_len=5)
    assert not result.placement.fallbacks, result.placement.fallbacks
print("done", flush=True)
"""


def start(code: str, *arguments: object, device: Path) -> subprocess.Popen[str]:
    """A program on the emulated device of this file."""
    command = [RUN, "--device", device, "python", "-c", code, *arguments]
    return subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    """What it printed; raises SystemExit with its words if it failed."""
    out, err = process.communicate(timeout=3600)
    if process.returncode:
        raise SystemExit(f"a process ended with {process.returncode}:\n{out}{err}")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--transcriptions", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        device = Path(folder, "device")
        command = [RUN, "--device", device, "whisper-npu", "kernels", "verify", *KERNELS]
        subprocess.run([str(part) for part in command], check=True)
        if args.transcriptions:
            print(finish(start(MANY, args.model, args.transcriptions, device=device)), end="")
        began = time.perf_counter()
        finish(start(ONE, args.model, 1, device=device))
        usual = time.perf_counter() - began
        for _ in range(args.kills):
            process = start(ONE, args.model, 1000, device=device)
            time.sleep(rng.uniform(0.0, 1.5 * usual))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            finish(start(ONE, args.model, 1, device=device))
        print(f"{args.kills} processes killed at random moments: each time the next had the device")
        both = [start(ONE, args.model, 5, device=device) for _ in range(2)]
        for process in both:
            finish(process)
        print("two processes at once: both finished on the device")


if __name__ == "__main__":
    main()
