"""No test sees the user's cache, whatever the scope of its fixtures."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from platformdirs import user_cache_path

from whisper_npu.home import home_folder
from whisper_npu.runtime.packed import packed_folder


@pytest.fixture(scope="module")
def home_of_a_module() -> Path:
    return home_folder()


@pytest.fixture(scope="session")
def home_of_the_session() -> Path:
    return home_folder()


def test_fixtures_of_every_scope_have_a_home_of_the_tests(
    home_of_a_module: Path, home_of_the_session: Path, cache_home: Path
) -> None:
    users = user_cache_path("whisper-npu", appauthor=False)
    for home in (home_of_a_module, home_of_the_session, cache_home, home_folder()):
        assert home.is_relative_to(tempfile.gettempdir())
        assert home != users
    assert home_of_a_module == home_of_the_session != cache_home
    assert home_folder() == cache_home == packed_folder().parent
    assert "WHISPER_NPU_KERNELS" not in os.environ
