"""Nothing that is compared with openai-whisper leaves its precision open."""

from __future__ import annotations

from pathlib import Path

import pytest

from whisper_npu import Transcriber
from whisper_npu.cli import main

JFK = Path(__file__).parents[2] / "samples" / "jfk.flac"
UNNAMED = "names no precision"


@pytest.fixture(scope="module")
def of_a_module() -> str:
    """What loading a model in a fixture gives."""
    with pytest.raises(AssertionError) as raised:
        Transcriber("demo")
    return str(raised.value)


def test_in_a_test() -> None:
    with pytest.raises(AssertionError, match=UNNAMED):
        Transcriber("demo")


def test_in_a_fixture(of_a_module: str) -> None:
    assert UNNAMED in of_a_module


def test_by_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=UNNAMED):
        main(["transcribe", str(JFK), "--model", "demo", "--output_dir", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_named() -> None:
    assert Transcriber("demo", precision="float32").dims.n_mels == 80
