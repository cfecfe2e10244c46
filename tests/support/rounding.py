"""Results that are equal but for the last digits of what was computed in float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

# Rows of float32 products are added up in an order that depends on how many there are. Measured
# were differences of up to 2.7e-7 in log-probabilities and probabilities of results.
WITHIN = 2e-6


def but_for_rounding(value: Any) -> Any:
    """What equals a value of JSON, and others whose floats are ``WITHIN`` of its own."""
    if isinstance(value, float):
        return pytest.approx(value, rel=0, abs=WITHIN)
    if isinstance(value, Mapping):
        return {name: but_for_rounding(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [but_for_rounding(each) for each in value]
    return value
