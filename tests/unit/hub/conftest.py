"""A hub with a small model, found through the environment, with a client in a hurry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.support.checkpoints import Recipe
from tests.unit.hub.fake_hub import FakeHub, reached, read_folder
from whisper_npu.hub import remote


@pytest.fixture
def hub(
    seeded_directory: Callable[[Recipe], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[FakeHub]:
    monkeypatch.setattr(remote, "BACK_OFF", (0.0, 0.0, 0.0))
    files = read_folder(seeded_directory(Recipe("nano")))
    fake = FakeHub(files, {"model.safetensors"})
    with reached(fake, tmp_path_factory.mktemp("huggingface")):
        yield fake


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only for hubs that do not answer: on a busy machine others may be as slow."""
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
