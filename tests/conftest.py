"""What all tests share: a cache of their own, and seeded checkpoints."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Generator
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.support.checkpoints import Recipe, write_checkpoint
from tests.support.named_precision import is_compared, precision_is_named
from tests.support.session_home import SESSION_HOME

REFERENCE_PACKAGES = ("torch", "whisper", "transformers")


def pytest_runtest_setup() -> None:
    """Raises if a test has left another home behind."""
    assert os.environ["WHISPER_NPU_HOME"] == SESSION_HOME


# Not a fixture: those of a module's scope load models, too, and before any of a test's own.
@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    with precision_is_named() if is_compared(item) else nullcontext():
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = [name for name in REFERENCE_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        skip = pytest.mark.skip(reason=f"not installed: {', '.join(missing)}")
        for item in items:
            if item.get_closest_marker("reference"):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def seeded_directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Recipe], Path]:
    """Gives the directory of a seeded checkpoint, which is made once."""
    made: dict[Recipe, Path] = {}

    def directory(recipe: Recipe) -> Path:
        if recipe not in made:
            made[recipe] = tmp_path_factory.mktemp(recipe.size)
            write_checkpoint(recipe, made[recipe])
        return made[recipe]

    return directory


@pytest.fixture(autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of models, for each test its own."""
    home = tmp_path_factory.mktemp("cache") / "home"
    monkeypatch.setenv("WHISPER_NPU_HOME", str(home))
    return home


@pytest.fixture
def uncalibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversions to int8 that round to the nearest, in a fraction of the time."""
    monkeypatch.setattr("whisper_npu.convert.conversion.shipped_windows", lambda *_: [])
