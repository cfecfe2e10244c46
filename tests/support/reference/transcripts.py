"""Comparing two transcriptions field by field, or by a hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from whisper_npu import Transcription

Result = Mapping[str, Any]


# The fields that hang on the last bits of a logit; all others are compared exactly.
APPROXIMATE = ("avg_logprob", "no_speech_prob", "probability")


def plain(result: Transcription) -> dict[str, Any]:
    """Our result as JSON would hold it, without what openai-whisper's has not."""
    content: dict[str, Any] = json.loads(json.dumps(result.to_dict()))
    del content["placement"]
    content.pop("language_probability", None)
    return content


def summary(result: Result) -> dict[str, Any]:
    """What may be kept of a result whose text may not: counts, and a hash of all that is exact."""
    segments, words = result["segments"], [s.get("words", ()) for s in result["segments"]]
    exact = [
        result["text"],
        result["language"],
        # Numbers as floats: 0 and 0.0 are spelt differently.
        [[s["id"], s["seek"], float(s["start"]), float(s["end"])] for s in segments],
        [[s["text"], s["tokens"], float(s["temperature"])] for s in segments],
        [[(w["word"], float(w["start"]), float(w["end"])) for w in of_one] for of_one in words],
    ]
    return {
        "segments": len(segments),
        "tokens": sum(len(segment["tokens"]) for segment in segments),
        "words": sum(map(len, words)),
        "sha256": hashlib.sha256(json.dumps(exact).encode()).hexdigest(),
    }


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
