"""What a recording costs against its length: seconds and memory, of ours."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.bench.client import WorkerRefusal
from tools.bench.conductor import Setting
from tools.bench.machine import Load
from tools.bench.models import write_recording
from tools.bench.registry import BATCH, Spec


def measure(
    setting: Setting, specs: Sequence[Spec], minutes: Sequence[float]
) -> list[dict[str, Any]]:
    """Transcribe recordings of so many minutes, each by a process of its own, alone and in
    batches; prints a line for each."""
    found: list[dict[str, Any]] = []
    absent: set[str] = set()
    for length in minutes:
        with tempfile.TemporaryDirectory() as folder:
            recording = Path(folder, "recording.wav")
            write_recording(recording, length)
            for spec in specs:
                try:
                    for batch_size in (1, BATCH):
                        found.append(_measure(setting, spec, recording, length, batch_size))
                except WorkerRefusal as refusal:
                    if spec.name not in absent:
                        print(f"bench: {spec.name} is left out: {refusal}", file=sys.stderr)
                    absent.add(spec.name)
    return found


def _measure(
    setting: Setting, spec: Spec, recording: Path, minutes: float, batch_size: int
) -> dict[str, Any]:
    with setting.worker(spec) as worker:
        worker.ready()
        answer = worker.request(
            stage="file",
            path=str(recording),
            n_tokens=setting.n_tokens,
            batch_size=batch_size,
            at_least=0,
        )
    (seconds,), load = answer["seconds"], Load.total([Load(**answer["loads"][0])])
    disturbed = " (disturbed)" if load.disturbed else ""
    print(
        f"{spec.name}, batches of {batch_size}: {minutes:g} minutes in {seconds:.1f} s, "
        f"{seconds / minutes:.2f} s a minute, {answer['result']} tokens, "
        f"peak {answer['peak_mb']:.0f} MiB{disturbed}",
        flush=True,
    )
    return {
        "runtime": spec.name,
        "batch_size": batch_size,
        "minutes": minutes,
        "seconds": seconds,
        "tokens": answer["result"],
        "peak_mb": answer["peak_mb"],
        "disturbed": load.disturbed,
    }
