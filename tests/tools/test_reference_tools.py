"""What shows agreement with openai-whisper: every difference is found and named."""

from __future__ import annotations

import pytest

from tests.support.reference.layers import Difference
from tests.support.reference.transcripts import unequal

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
def test_the_layer_table_has_a_row_for_every_layer() -> None:
    from tools.tables.parity import table

    found = [
        Difference("encoder", "conv1", 1e-7),
        Difference("encoder", "encoder.0.q", 2e-7),
        Difference("encoder", "encoder.0.fc1", 4e-7),
        Difference("encoder", "encoder.1.q", 3e-7),
        Difference("step 1", "logits", 5e-7),
        Difference("step 2", "logits", 6e-7),
    ]
    rows = [line.replace("|", " ").split() for line in list(table(found))[2:]]
    assert rows == [
        ["encoder", "conv1", "1", "1.0e-07", "conv1"],
        ["encoder", "layer", "0", "2", "4.0e-07", "encoder.0.fc1"],
        ["encoder", "layer", "1", "1", "3.0e-07", "encoder.1.q"],
        ["steps", "logits", "2", "6.0e-07", "step", "2:", "logits"],
    ]
