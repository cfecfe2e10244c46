"""No test sees the user's cache, whatever the scope of its fixtures."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import platformdirs
import pytest
from platformdirs import user_cache_path

from whisper_npu.errors import OptionError
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


@pytest.mark.parametrize("found", [None, "~/.cache/whisper-npu"])
def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch, found: str | None) -> None:
    """What platformdirs does then depends on its version."""

    def user_cache_path(name: str, appauthor: bool) -> Path:
        if found is None:
            raise RuntimeError("no home")
        return Path(found)

    monkeypatch.setattr(platformdirs, "user_cache_path", user_cache_path)
    monkeypatch.delenv("WHISPER_NPU_HOME")
    assert home_folder() == Path("/.cache/whisper-npu")
    monkeypatch.setenv("WHISPER_NPU_HOME", "~/models")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(OptionError, match="WHISPER_NPU_HOME is '~/models', but this user has no "):
        home_folder()
