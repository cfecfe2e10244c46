"""What must be shown, as ratios of ours to the peers within one run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from typing import NamedTuple

from tools.bench.conductor import PEAK, READY
from tools.bench.registry import BATCHED, KERNELS, NUMPY, SEQUENTIAL
from tools.bench.results import Results


class Criterion(NamedTuple):
    """``stage`` of one of ours takes at most ``limit`` times that of the fastest of the peers."""

    stage: str
    limit: float
    peers: tuple[str, ...]


ANY = ("*",)
UNQUANTISED = ("*float32", "*bf16", "*f16")
OPENAI = ("openai-whisper*",)

CRITERIA = {
    NUMPY: (
        Criterion("encoder", 1.1, OPENAI),
        Criterion("decode", 0.75, OPENAI),
        Criterion("window", 1.0, UNQUANTISED),
        Criterion(READY, 0.2, OPENAI),
        Criterion(PEAK, 0.6, OPENAI),
    ),
    KERNELS: (
        Criterion("encoder", 0.5, ANY),
        Criterion("decode", 0.5, ANY),
        Criterion("window", 0.3, ANY),
        Criterion("beam", 0.4, ANY),
        Criterion("batch", 0.4, ANY),
        Criterion("file", 0.4, ("faster-whisper*",)),
        Criterion(PEAK, 1.0, ("whisper.cpp q8_0",)),
    ),
}

# Of ours without an option, when speech is transcribed, by model.
SPEECH_LIMITS = {
    model: (
        Criterion("transcription", 0.27, (SEQUENTIAL,)),
        Criterion("transcription", 0.45, (BATCHED,)),
        Criterion(PEAK, memory, (SEQUENTIAL,)),
    )
    for model, memory in (("tiny.en", 0.35), ("base", 0.40))
}


def verdicts(results: Results, ours: Sequence[str], peers: Sequence[str]) -> Iterator[str]:
    """A line for every criterion that can be judged by what was measured."""
    for own in ours:
        for kind, criteria in CRITERIA.items():
            if kind not in own:
                continue
            for criterion in criteria:
                if found := largest_ratio(results, own, criterion, peers):
                    yield verdict(own, criterion, *found)


def verdict(own: str, criterion: Criterion, ratio: float, peer: str) -> str:
    """Whether a ratio is within the limit, as a line of text."""
    kept = "yes" if ratio <= criterion.limit else "NO"
    return (
        f"{own}: {criterion.stage} is {ratio:.2f} times that of {peer}, "
        f"at most {criterion.limit:g}: {kept}"
    )


def largest_ratio(
    results: Results, own: str, criterion: Criterion, peers: Sequence[str]
) -> tuple[float, str] | None:
    """The ratio to the fastest peer, which is the largest of all."""
    ratios = [
        (ratio, peer)
        for peer in peers
        if any(fnmatch(peer, pattern) for pattern in criterion.peers)
        and (ratio := results.ratio(own, peer, criterion.stage)) is not None
    ]
    return max(ratios, default=None)
