"""The account of one file: what was decoded, what is missing, and the one line that tells it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from whisper_npu.audio.blocks import DecodedBlock

# Samples times channels decoded at once: a header may claim any rate and number of channels.
_BLOCK_VALUES = 2**20

# Silence that no bytes of the file stand for, in seconds: this much and as much as was decoded.
_FREE_SILENCE = 30.0
_PLACES_NAMED = 5
# A file with more is hostile: the last of them stands for all that follow.
_GAPS_KEPT = 10_000
# Gaps with less between them are one, in seconds.
_TOUCHING = 1e-3
# More than headers of packets and what else there is between them.
_MUCH = 0.2
# What less is missing at the end of a file is not worth a line, in seconds.
_NOT_WORTH_A_LINE = 0.1
# What is not decoded at an end where nothing tells the length, in seconds.
_WORTH_HEARING = 1.0


@dataclass(frozen=True, slots=True)
class Gap:
    """Audio that is missing, in seconds: ``lost`` of them, of which ``filled`` are silence."""

    start: float
    lost: float
    filled: float


class Account:
    """Keeps the time of what is decoded, and what is missing."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.position = 0.0
        self.decoded = 0.0
        self.gaps: list[Gap] = []
        # What else is to be told, and why something could not be decoded.
        self.notes: list[str] = []
        self.reason: str | None = None
        self._free_silence = 0.0

    def add(self, block: DecodedBlock) -> DecodedBlock:
        """Count a block that was decoded."""
        seconds = len(block.samples) / block.rate
        self.position += seconds
        self.decoded += seconds
        return block

    def failed(self, reason: str) -> None:
        """Note why something could not be decoded; the first reason is kept."""
        self.reason = self.reason or reason

    def pass_on(self, block: DecodedBlock) -> DecodedBlock:
        """Let a block pass that another account counts."""
        self.position += len(block.samples) / block.rate
        return block

    def merge(self, other: Account, start: float, since: float = 0.0) -> None:
        """Take over what another account of a part says, from ``since`` on in its own time.

        The part began at ``start``; all times are in seconds.
        """
        self.decoded += other.decoded
        self.reason = self.reason or other.reason
        self.notes += other.notes
        for gap in other.gaps:
            if gap.start + gap.filled > since:
                early = max(0.0, since - gap.start)
                at, lost, filled = gap.start + early, gap.lost - early, gap.filled - early
                self._add_gap(Gap(start + at, lost, filled))

    def _add_gap(self, gap: Gap) -> None:
        """Add a gap that is after all others; it is part of the last if that touches it."""
        last = self.gaps[-1] if self.gaps else None
        touches = last is not None and gap.start - (last.start + last.filled) < _TOUCHING
        if last is not None and (touches or len(self.gaps) == _GAPS_KEPT):
            gap = Gap(last.start, last.lost + gap.lost, last.filled + gap.filled)
            self.gaps.pop()
        self.gaps.append(gap)

    def gap(self, lost: float, held: float, like: DecodedBlock) -> Iterator[DecodedBlock]:
        """Silence in the place of ``lost`` seconds, as blocks like one that was decoded.

        ``held`` are the seconds that the bytes of the gap can have held. Timestamps may claim
        anything: what they claim beyond those is bounded, so that a jump of years does not make
        years of silence.
        """
        free = max(0.0, _FREE_SILENCE + self.decoded - self._free_silence)
        filled = min(lost, max(0.0, held) + free)
        self._free_silence += max(0.0, filled - held)
        self._add_gap(Gap(self.position, lost, filled))
        self.position += filled
        yield from silence(filled, like)

    def warn(self) -> None:
        """Give the one warning of this file, if there is something to say."""
        parts = [*self._gap_texts(), *self.notes]
        if parts:
            warnings.warn(f"{self.name}: {'; '.join(parts)}", stacklevel=2)

    def _gap_texts(self) -> Iterator[str]:
        gaps = self.gaps
        if not gaps:
            return
        places = ", ".join(f"{gap.lost:.2f} s at {gap.start:.2f} s" for gap in gaps[:_PLACES_NAMED])
        more = f" and {len(gaps) - _PLACES_NAMED} more" if len(gaps) > _PLACES_NAMED else ""
        total = sum(gap.filled for gap in gaps)
        yield (
            f"{total:.2f} s of its audio are damaged or missing and were filled with silence: "
            f"{places}{more}"
        )
        if (early := sum(gap.lost - gap.filled for gap in gaps)) > _NOT_WORTH_A_LINE:
            yield (
                f"its timestamps claim {early:.1f} s more than it can hold, so that later times "
                "are earlier than the file's own"
            )

    def compare(self, promised: float | None) -> None:
        """Note if the file ends before what its header promises, in seconds."""
        if promised is not None and promised - self.position > _NOT_WORTH_A_LINE:
            self.notes.append(
                f"holds {self.position:.1f} s of audio, but its header promises "
                f"{promised:.1f} s (cut off or damaged; get a complete copy)"
            )

    def compare_bytes(self, decoded: int, held: int) -> None:
        """Note if much of the bytes that a file holds, for audio by all that is known, is none."""
        left = held - decoded
        seconds = self.position * left / decoded if decoded else 0.0
        if left > _MUCH * held and seconds > 1.0:
            self.notes.append(
                f"{left} of its {held} bytes, about {seconds:.1f} s, are not decoded: its header "
                "leaves them out"
            )

    def compare_end(self, decoded: int, held: int) -> None:
        """Note if much of the bytes of a file in which there are packets only was none."""
        left = held - decoded
        seconds = self.position * left / decoded if decoded else 0.0
        if seconds > _WORTH_HEARING:
            self.notes.append(
                f"{left} of its {held} bytes, about {seconds:.1f} s, are no packets of it "
                "(damaged, or of another format; get a complete copy)"
            )


def silence(seconds: float, like: DecodedBlock) -> Iterator[DecodedBlock]:
    """Blocks of zeros."""
    left = round(seconds * like.rate)
    channels = like.samples.shape[1]
    while left > 0:
        n = min(left, block_size(like.rate, channels, left))
        yield DecodedBlock(like.rate, np.zeros((n, channels), np.float32), like.layout)
        left -= n


def block_size(rate: int, channels: int, block_seconds: float) -> int:
    """Samples decoded at once."""
    return max(1, min(int(block_seconds * rate), _BLOCK_VALUES // channels))
