"""A hub with a small model, found through the environment, with a client in a hurry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.checkpoints import Recipe
from tests.unit.hub.fake_hub import FakeHub, read_folder, serving
from whisper_npu.hub import client


@pytest.fixture
def hub(
    seeded_directory: Callable[[Recipe], Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeHub]:
    monkeypatch.setattr(client, "BACK_OFF", (0.0, 0.0, 0.0))
    for name in (
        "HF_TOKEN",
        "HF_HUB_OFFLINE",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    files = read_folder(seeded_directory(Recipe("nano")))
    with serving(FakeHub(files, {"model.safetensors"})) as fake:
        monkeypatch.setenv("HF_ENDPOINT", fake.endpoint)
        yield fake


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only for hubs that do not answer: on a busy machine others may be as slow."""
    monkeypatch.setattr(client, "TIMEOUTS", (5.0, 0.2))
