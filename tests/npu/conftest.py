"""The emulator for tests marked ``npu``; without its set-up they are skipped."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.npu.emulator import RUN, Emulator, environment, why_not

BUILD = RUN.parent / "build_xclbin.py"


@pytest.fixture(scope="session")
def _emulator_is_there() -> None:
    reason = why_not()
    if reason:
        pytest.skip(f"the NPU emulator does not run: {reason}")


@pytest.fixture
def emulator(_emulator_is_there: None, tmp_path: Path) -> Emulator:
    """A device that no other test uses."""
    return Emulator(tmp_path)


def _xclbin(path: Path, tile: str, columns: int) -> Path:
    subprocess.run(
        [RUN, "python", BUILD, "gemm_int8", tile, path, "--columns", str(columns)],
        check=True,
        env=environment(),
    )
    return path


@pytest.fixture(scope="session")
def xclbin(_emulator_is_there: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The INT8 GEMM, tile 64x64x64, one column."""
    return _xclbin(tmp_path_factory.mktemp("xclbin") / "gemm_64.xclbin", "64x64x64", 1)


@pytest.fixture(scope="session")
def xclbin_16(_emulator_is_there: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The INT8 GEMM, tile 16x64x64, one column."""
    return _xclbin(tmp_path_factory.mktemp("xclbin") / "gemm_16.xclbin", "16x64x64", 1)


@pytest.fixture(scope="session")
def xclbin_4_columns(_emulator_is_there: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same kernel in a partition of four columns."""
    return _xclbin(tmp_path_factory.mktemp("xclbin") / "gemm_wide.xclbin", "64x64x64", 4)
