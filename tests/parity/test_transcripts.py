"""Whole transcriptions, token for token, against ``whisper.transcribe``.

Once against its kept results (tests/data/transcripts.json, made by tests.dump)
and once, where it is installed, against openai-whisper itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from tests.parity.cases import CASES, SAMPLING_SEED, recording
from tests.parity.tolerances import RESULT
from tests.support.checkpoints import Recipe
from tests.support.reference.transcripts import plain, unequal
from whisper_npu import Transcriber

KEPT = Path(__file__).parents[1] / "data" / "transcripts.json"
Directory = Callable[[Recipe], Path]


@lru_cache(maxsize=1)
def kept_results() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(KEPT.read_text(encoding="utf-8"))
    return content


# Of module scope, so that both tests of a case follow each other and it is transcribed once.
@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def ours(case: str, seeded_directory: Directory) -> dict[str, Any]:
    chosen = CASES[case]
    transcriber = Transcriber(seeded_directory(chosen.recipe), precision="float32")
    return plain(
        transcriber.transcribe(
            recording(chosen.audio), seed=SAMPLING_SEED, raw_timestamps=True, **chosen.options
        )
    )


def check(ours: dict[str, Any], reference: dict[str, Any]) -> None:
    different = list(unequal(ours, reference, RESULT))
    assert not different, "\n".join(different[:10])


def test_against_the_kept_result(case: str, ours: dict[str, Any]) -> None:
    check(ours, kept_results()[case])


@pytest.mark.reference
def test_against_the_reference(
    case: str, ours: dict[str, Any], seeded_directory: Directory
) -> None:
    from tests.support.reference.transcribe import transcribe

    chosen = CASES[case]
    folder = seeded_directory(chosen.recipe)
    check(ours, transcribe(folder, recording(chosen.audio), chosen.options, SAMPLING_SEED)[0])
