"""Result dictionaries and line options that put the writers through all their branches."""

from __future__ import annotations

from itertools import product
from typing import Any

TEXTS = (
    " And so, my fellow Americans, ask not what your country can do for you,",
    " ask what you can do for your country.",
    " A -> B, tab\there, “quotes” & <angles>",
    " 很高兴认识你。",
    " naïve café 🎉",
)
# Pauses of more than 3 s before the second and in the fifth, of less before the third; past the
# hour from the fourth on.
STARTS = (0.0, 14.26, 20.3004, 3599.9996, 3605.5)
LENGTHS = (3.9, 3.9, 3.9, 3.9, 10.5)


def _segment(i: int, text: str, start: float, end: float) -> dict[str, Any]:
    return {
        "id": i,
        "seek": 100 * int(start),
        "start": start,
        "end": end,
        "text": text,
        "tokens": [50364, 400 + i, 50566] if text else [],
        "temperature": 0.2,
        "avg_logprob": -0.123456789012345,
        "compression_ratio": 1.5652173913043479,
        "no_speech_prob": 0.0012345679104328156,
    }


def _words(text: str, start: float, length: float) -> list[dict[str, Any]]:
    parts = text.split(" ")[1:] if text else []
    step = length / max(len(parts), 1)
    return [
        {
            "word": " " + part if i or text.startswith(" ") else part,
            "start": start + i * step,
            # Every third word ends where the next begins, others leave a gap.
            "end": start + (i + (1.0 if i % 3 == 0 else 0.7)) * step,
            "probability": 0.25 + 0.5 / (i + 1),
        }
        for i, part in enumerate(parts)
    ]


def _transcript(with_words: bool) -> dict[str, Any]:
    segments = []
    for i, (text, start, length) in enumerate(zip(TEXTS, STARTS, LENGTHS, strict=True)):
        segment = _segment(i, text, start, start + length + 0.14)
        if with_words:
            segment["words"] = _words(text, start, length)
        segments.append(segment)
    return {"text": "".join(TEXTS), "segments": segments, "language": "en"}


TRANSCRIPTS = {"segments": _transcript(False), "words": _transcript(True)}

LINE_OPTIONS: tuple[dict[str, Any], ...] = tuple(
    {
        "highlight_words": highlight,
        "max_line_width": width,
        "max_line_count": count,
        "max_words_per_line": words,
    }
    for highlight, width, count, words in product(
        (False, True), (None, 12, 42), (None, 1, 2), (None, 1, 3)
    )
)
# Those whose output by openai-whisper is kept in tests/data/writers.json.
KEPT_OPTIONS = tuple(
    options
    for options in LINE_OPTIONS
    if tuple(options.values())
    in {
        (False, None, None, None),
        (False, 12, None, None),
        (False, 12, 2, None),
        (False, 42, 1, None),
        (False, None, None, 3),
        (True, None, None, None),
        (True, 42, 2, None),
        (True, None, None, 3),
    }
)
