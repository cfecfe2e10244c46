"""Checkpoints in every format: a seeded one with a real vocabulary, and the smallest possible."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.checkpoints import Recipe
from tests.support.formats.every_format import write_formats
from tests.support.micro import write_micro


@pytest.fixture(scope="session")
def nano(seeded_directory: Callable[[Recipe], Path]) -> Path:
    return seeded_directory(Recipe("nano"))


@pytest.fixture(scope="session")
def formats(nano: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The seeded checkpoint in the formats of other programs: name -> what to open."""
    return {path.name: path for path in write_formats(nano, tmp_path_factory.mktemp("formats"))}


@pytest.fixture(scope="session")
def micro_template(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The smallest checkpoint in every format: name -> what to open."""
    return write_micro(tmp_path_factory.mktemp("micro"))


@pytest.fixture
def micro(micro_template: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """The same, for tests that damage it."""
    shutil.copytree(micro_template["huggingface"].parent, tmp_path, dirs_exist_ok=True)
    return {name: tmp_path / name for name in micro_template}
