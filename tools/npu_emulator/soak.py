"""Endurance of the NPU path on the emulator: many transcriptions, killed processes, two at once.

    python tools/npu_emulator/soak.py --model DIR [--transcriptions 1000] [--kills 200]

Uses the kernels of the set-up, and verifies them first. Prints live buffers, contexts and memory as
they go, and what became of the processes. Exit code 1 if a transcript changes, an op falls back,
buffers or contexts become more, or memory grows by a tenth after the first tenth. Takes a small
model, such as one of tools/make_checkpoint.py --size nano.
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
import gc, json, re, sys
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

first = transcriber = None
seen = []
for i in range(count):
    # As a server does that loads models: some closed, some merely dropped.
    if i % 50 == 0:
        if transcriber and i % 100 == 0:
            transcriber.close()
        transcriber = None
        # The NPU has been given back by now. A model is in cycles of references: that its arrays
        # are gone too takes the collector.
        gc.collect()
        transcriber = Transcriber(model, device="npu", check_rate=0.01)
    result = transcriber.transcribe(noise, language="en", temperature=0.0, sample_len=5)
    assert not result.placement.fallbacks and result.placement.launches
    first = first or result
    assert result == first
    if (i + 1) % max(1, count // 10) == 0 or i == 0:
        counters, resident = state()
        live = ", ".join(f"{counters[k]} {k}" for k in ("bos", "bo_bytes", "contexts", "launches"))
        print(f"{i + 1} transcriptions: {live}, RSS {resident} KiB", flush=True)
        seen.append((counters["bos"], counters["bo_bytes"], counters["contexts"], resident))
assert len({live[:3] for live in seen[1:]}) == 1, "buffers or contexts are not given back"
assert max(live[3] for live in seen) < 1.1 * seen[1][3], "memory grows"
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
"""


def start(code: str, *arguments: object, device: Path) -> subprocess.Popen[str]:
    """A program on the emulated device of this file."""
    command = [RUN, "--device", device, "python", "-c", code, *arguments]
    return subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> None:
    """Raises SystemExit with its words if it failed."""
    out, err = process.communicate(timeout=3600)
    if process.returncode:
        raise SystemExit(f"a process ended with {process.returncode}:\n{out}{err}")


def kill(rng: random.Random, kills: int, model: Path, device: Path) -> None:
    """One after another is killed: three of four while they transcribe, which needs the kernels of
    the device, and a fourth at any moment since it was started."""
    began = time.perf_counter()
    finish(start(ONE, model, 1, device=device))
    usual = time.perf_counter() - began
    worked = 0
    for i in range(1, kills + 1):
        process = start(ONE, model, 1000, device=device)
        if i % 4:
            assert process.stdout is not None
            if process.stdout.readline() != "open\n":
                finish(process)
            worked += 1
            time.sleep(rng.uniform(0.0, 0.5 * usual))
        else:
            time.sleep(rng.uniform(0.0, usual))
        if process.poll() is not None:
            finish(process)
            raise SystemExit("a process ended before it was killed")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if i % 20 == 0:
            print(f"{i} killed, {worked} of them at work on the device", flush=True)
    finish(start(ONE, model, 3, device=device))
    print(f"{kills} killed, and none that was left the time went without the device", flush=True)


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
            process = start(MANY, args.model, args.transcriptions, device=device)
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
            finish(process)
        if args.kills:
            kill(rng, args.kills, args.model, device)
        both = [start(ONE, args.model, 5, device=device) for _ in range(2)]
        for process in both:
            finish(process)
        print("two processes at once: both finished on the device")


if __name__ == "__main__":
    main()
