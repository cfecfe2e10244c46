"""Whole transcriptions of real speech by published weights, token for token.

Of openai-whisper's results only counts and hashes are kept (tests/data/real_transcripts.json, made
by tests.dump), so that most runs need no torch. Where it is installed the results are computed,
once for each cache, and compared field by field.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.parity.tolerances import REAL_RESULT
from tests.real.cases import CASES, SAMPLING_SEED, recording
from tests.support.real import openai_whisper
from tests.support.real.modes import FLOAT32, FLOAT32_ON_KERNELS, transcriber
from tests.support.reference.transcripts import plain, summary, unequal

pytestmark = pytest.mark.real
KEPT = Path(__file__).parents[1] / "data" / "real_transcripts.json"


@cache
def kept_summaries() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(KEPT.read_text(encoding="utf-8"))
    return content


# Of module scope, so that both tests of a case follow each other and it is transcribed once.
@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.long if case.long else ())
        for name, case in CASES.items()
    ],
)
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def ours(case: str) -> dict[str, Any]:
    return transcribed(case, FLOAT32)


def transcribed(case: str, mode: str) -> dict[str, Any]:
    chosen = CASES[case]
    model, samples = transcriber(chosen.model, mode), recording(chosen.audio)
    result = model.transcribe(samples, seed=SAMPLING_SEED, raw_timestamps=True, **chosen.options)
    return plain(result)


def test_against_the_kept_hash(case: str, ours: dict[str, Any]) -> None:
    chosen = CASES[case]
    if summary(ours) != kept_summaries()[case]:
        reference = openai_whisper.kept_reference(
            chosen.model, recording(chosen.audio), chosen.options, SAMPLING_SEED
        )
        different = ["openai-whisper's result is not in the cache"]
        if reference is not None:
            different = differences(ours, reference.result)
        assert summary(ours) == kept_summaries()[case], "\n".join(different[:10])


@pytest.mark.reference
@pytest.mark.long
def test_against_the_reference(case: str, ours: dict[str, Any]) -> None:
    chosen = CASES[case]
    theirs = openai_whisper.transcribe(
        chosen.model, recording(chosen.audio), chosen.options, SAMPLING_SEED
    ).result
    different = differences(ours, theirs)
    assert not different, "\n".join(different[:10])
    assert summary(theirs) == kept_summaries()[case]


@pytest.mark.long
def test_on_cpu_kernels(case: str, cpu_home: Path) -> None:
    assert summary(transcribed(case, FLOAT32_ON_KERNELS)) == kept_summaries()[case]


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    return list(unequal(ours, theirs, REAL_RESULT))
