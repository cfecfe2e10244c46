"""Which tests must name their precision (tests/parity/test_named_precision.py: what that means)."""

from __future__ import annotations

import pytest

from whisper_npu import Transcriber


@pytest.mark.reference
def test_one_that_runs_openai_whisper() -> None:
    with pytest.raises(AssertionError, match="names no precision"):
        Transcriber("demo")


def test_others_may_leave_it_open() -> None:
    assert Transcriber("demo").dims.n_mels == 80
