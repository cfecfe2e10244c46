"""The number of threads that a transcriber gives the kernels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.checkpoints import Recipe
from whisper_npu.backends.cpu.build import find_build
from whisper_npu.backends.cpu.library import load_library
from whisper_npu.runtime.workers import find_blas
from whisper_npu.transcriber import Transcriber


def test_a_transcriber_sets_the_threads_of_kernels(
    cpu_home: Path,
    seeded_directory: Callable[[Recipe], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("whisper_npu.runtime.workers._Process.asked", None)
    build, blas, folder = find_build(), find_blas(), seeded_directory(Recipe("nano"))
    assert build is not None
    library = load_library(build.path)
    before, of_blas = library.threads, None if blas is None else blas.threads
    try:
        for count in (3, 1):
            Transcriber(folder, cpu_kernels=True, threads=count)
            assert library.threads == count
            # One that names no number does not change it.
            Transcriber(folder, cpu_kernels=True)
            assert library.threads == count
    finally:
        library.threads = before
        if blas is not None:
            blas.threads = of_blas
