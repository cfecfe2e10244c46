"""The transcribe command without a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.fake import FakeTranscriber
from whisper_npu.cli import transcribe


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTranscriber:
    monkeypatch.chdir(tmp_path)
    transcriber = FakeTranscriber()
    monkeypatch.setattr(transcribe, "load", lambda model, machine: transcriber)
    return transcriber
