"""Recordings of several lengths and options, and what is left behind when they are done."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.checkpoints import Recipe
from tests.support.cpu_library import cpu_home as cpu_home
from tests.support.signals import noise
from tests.support.waiting import wait_for
from whisper_npu import Transcriber
from whisper_npu.convert import convert

GREEDY: dict[str, Any] = {"language": "en", "temperature": 0.0}


@pytest.fixture
def compiled(
    seeded_directory: Callable[[Recipe], Path], tmp_path: Path, cpu_home: Path
) -> Iterator[Transcriber]:
    """A small model on CPU kernels, in int8."""
    floats = seeded_directory(Recipe("nano", seed=1))
    integers = convert(floats, tmp_path / "int8", calibrate=False).dest
    with Transcriber(integers, precision="int8", cpu_kernels=True) as made:
        yield made


@pytest.fixture
def spilled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spectra lie in files, however short they are."""
    monkeypatch.setattr("whisper_npu.audio.features._SPILL_BYTES", 64)


def sound(seconds: float, seed: int = 0, channels: int = 1) -> np.ndarray:
    """Noise: [n], or of several channels [n, channels]."""
    samples = noise(round(16000 * seconds) * channels, seed)
    return samples if channels == 1 else samples.reshape(-1, channels)


# Threads that other tests have left, as those of engines that they keep.
THREADS_BEFORE: set[threading.Thread] = set()


def own_threads() -> list[str]:
    """Threads of engines and recordings that this test began."""
    threads = set(threading.enumerate()) - THREADS_BEFORE
    names = [thread.name for thread in threads]
    return [
        name for name in names if name.startswith(("whisper-npu-engine", "whisper-npu-recording"))
    ]


def no_thread_is_left() -> None:
    wait_for(lambda: not own_threads(), f"threads are left: {own_threads()}")


def open_files() -> int:
    """How many files and sockets this process has open."""
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def no_file_is_left(before: int) -> None:
    wait_for(lambda: open_files() <= before, f"{open_files() - before} files are left open")


def resident_mib() -> float:
    """Memory of this process, 0 where that is not told."""
    if not os.path.exists("/proc/self/statm"):
        return 0.0
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
