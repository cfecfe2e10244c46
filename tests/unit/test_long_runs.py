"""Memory that must not grow: with the length of a recording, and with the size of a model."""

from __future__ import annotations

import pytest

from tools.tables import conversion, long_recordings

pytestmark = pytest.mark.long

HOURS, MORE_MIB = 3, 150  # for hours of audio than for a minute


def test_memory_does_not_grow_with_the_recording() -> None:
    minute, hours = long_recordings.measure("tiny", (1, 60 * HOURS))
    assert hours.segments > 100 * minute.segments
    assert hours.peak_mib - minute.peak_mib < MORE_MIB


@pytest.mark.parametrize("stored", ["float16", "float32"])
def test_memory_of_converting_does_not_grow_with_the_model(stored: str) -> None:
    """Less than the largest tensor of the model as it is stored."""
    run = conversion.measure("large-v3", stored)
    assert run.result > 1.5e9
    assert run.ratio < 1
