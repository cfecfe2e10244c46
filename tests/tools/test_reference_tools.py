"""The tools that show agreement with openai-whisper, on a model small enough for a test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.checkpoints import Recipe
from tests.support.reference.layers import Difference
from tests.support.reference.transcripts import unequal

TOOLS = Path(__file__).parents[2] / "tools"
JFK = Path(__file__).parents[1] / "data" / "jfk.flac"

SEGMENT = {"id": 0, "text": " a", "tokens": [5, 6], "avg_logprob": -0.25}
RESULT = {"text": " a", "segments": [SEGMENT], "language": "en"}


def test_equal_results_have_nothing_unequal() -> None:
    near = {**SEGMENT, "avg_logprob": -0.25005}
    assert list(unequal({**RESULT, "segments": [near]}, RESULT, 1e-4)) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": " b"}, "result.segments[0].text is ' b', not ' a'"),
        ({"tokens": [5, 7]}, "result.segments[0].tokens[1] is 7, not 6"),
        ({"tokens": [5]}, "result.segments[0].tokens has 1 items, not 2"),
        ({"avg_logprob": -0.2502}, "result.segments[0].avg_logprob is -0.2502, not -0.25"),
        ({"avg_logprob": float("nan")}, "result.segments[0].avg_logprob is nan, not -0.25"),
        (
            {"words": []},
            "result.segments[0] has ['avg_logprob', 'id', 'text', 'tokens', 'words'], "
            "not ['avg_logprob', 'id', 'text', 'tokens']",
        ),
    ],
)
def test_every_difference_is_named(change: dict[str, object], message: str) -> None:
    ours = {**RESULT, "segments": [{**SEGMENT, **change}]}
    assert list(unequal(ours, RESULT, 1e-4)) == [message]


@pytest.mark.reference
def test_both_command_lines_write_the_same_five_files(
    seeded_directory: Callable[[Recipe], Path],
) -> None:
    folder = seeded_directory(Recipe("nano", seed=2))
    command = [sys.executable, TOOLS / "compare_cli.py", JFK, "--model", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    equal = [f"jfk.{suffix}: equal" for suffix in ("txt", "vtt", "srt", "tsv", "json")]
    assert (done.returncode, done.stdout.splitlines()[-6:-1]) == (0, equal), done.stderr


@pytest.mark.reference
def test_files_that_differ_are_named(tmp_path: Path) -> None:
    from tools.compare_cli import compare

    ours, theirs = tmp_path / "a.srt", tmp_path / "b.srt"
    ours.write_text("1\n")
    theirs.write_text("1\r\n")
    assert compare(ours, theirs) == ["a.srt differs from openai-whisper's"]
    assert compare(ours, ours) == []


@pytest.mark.reference
def test_the_layer_table_has_a_row_for_every_layer() -> None:
    from tools.parity_table import table

    found = [
        Difference("encoder", "conv1", 1e-7),
        Difference("encoder", "encoder.0.q", 2e-7),
        Difference("encoder", "encoder.0.fc1", 4e-7),
        Difference("encoder", "encoder.1.q", 3e-7),
        Difference("step 1", "logits", 5e-7),
        Difference("step 2", "logits", 6e-7),
    ]
    rows = [line.split() for line in table(found)[1:]]
    assert rows == [
        ["encoder", "conv1", "1", "1.0e-07", "conv1"],
        ["encoder", "layer", "0", "2", "4.0e-07", "encoder.0.fc1"],
        ["encoder", "layer", "1", "1", "3.0e-07", "encoder.1.q"],
        ["steps", "1", "to", "20", "logits", "2", "6.0e-07", "step", "2:", "logits"],
    ]
