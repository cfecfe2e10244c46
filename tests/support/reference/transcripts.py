"""Comparing two transcriptions field by field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]


# The fields that hang on the last bits of a logit; all others are compared exactly.
APPROXIMATE = ("avg_logprob", "no_speech_prob", "probability")


def unequal(
    ours: Any, reference: Any, tolerance: float, where: str = "result", field: str = ""
) -> Iterator[str]:
    """What differs between two results, each as a line of text, in the order of the fields.

    ``APPROXIMATE`` fields may differ by ``tolerance``, everything else must be equal.
    """
    if isinstance(reference, Mapping):
        if ours.keys() != reference.keys():
            yield f"{where} has {sorted(ours)}, not {sorted(reference)}"
            return
        for key, value in reference.items():
            yield from unequal(ours[key], value, tolerance, f"{where}.{key}", key)
    elif isinstance(reference, Sequence) and not isinstance(reference, str):
        for i, (a, b) in enumerate(zip(ours, reference, strict=False)):
            yield from unequal(a, b, tolerance, f"{where}[{i}]")
        if len(ours) != len(reference):
            yield f"{where} has {len(ours)} items, not {len(reference)}"
    elif field in APPROXIMATE:
        # Not "more than": what is not a number is not near either.
        if not abs(ours - reference) <= tolerance:
            yield f"{where} is {ours}, not {reference}"
    elif ours != reference:
        yield f"{where} is {ours!r}, not {reference!r}"
