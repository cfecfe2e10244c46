"""The CPU kernels, compiled and verified once for all tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

import pytest

from tests.support.session_home import ASKED_ISA
from whisper_npu.backends.cpu import build
from whisper_npu.backends.cpu.build import build_library, find_compiler
from whisper_npu.backends.cpu.library import ISA_ENVIRONMENT, open_library
from whisper_npu.backends.cpu.library_evidence import CpuEvidenceStore
from whisper_npu.backends.cpu.verify_library import verify_library
from whisper_npu.errors import KernelError


def require_compiler() -> None:
    """Skips the test where nothing can be compiled."""
    try:
        find_compiler()
    except KernelError as error:
        pytest.skip(str(error))


@lru_cache(maxsize=1)
def _built() -> tempfile.TemporaryDirectory[str]:
    home = tempfile.TemporaryDirectory(prefix="whisper-npu-tests-")
    before = os.environ.get("WHISPER_NPU_HOME")
    os.environ["WHISPER_NPU_HOME"] = home.name
    try:
        made = build_library()
        CpuEvidenceStore().record(*verify_library(open_library(made), made.sha256))
    finally:
        if before is None:
            del os.environ["WHISPER_NPU_HOME"]
        else:
            os.environ["WHISPER_NPU_HOME"] = before
    return home


@pytest.fixture
def no_cpu_kernels(cache_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of models where no CPU kernels were compiled, though they may be used."""
    _forget_installed(cache_home, monkeypatch)
    return cache_home


@pytest.fixture
def cpu_home(cache_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of models with verified CPU kernels in it, which are used, and nothing else."""
    require_compiler()
    _forget_installed(cache_home, monkeypatch)
    shutil.copytree(_built().name, cache_home)
    return cache_home


def _forget_installed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nothing had been compiled when the package was installed; kernels may be used."""
    monkeypatch.setattr(build, "installed_folder", lambda: home / "installed")
    monkeypatch.setenv(ISA_ENVIRONMENT, ASKED_ISA)
