"""What a transcription returns: frozen dataclasses with openai-whisper's field names."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Word:
    """One word with its times in seconds and the mean probability of its tokens."""

    word: str
    start: float
    end: float
    probability: float


@dataclass(frozen=True)
class Segment:
    """One segment of a transcription.

    ``seek`` is the position of its window in mel frames (10 ms); ``start`` and ``end`` are in
    seconds; ``tokens`` holds the token ids with timestamp tokens, as openai-whisper does.
    ``words`` is None unless word timestamps were asked for.
    """

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    words: tuple[Word, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The dictionary that openai-whisper would give (without ``words`` when there are none)."""
        result = asdict(self)
        result["tokens"] = list(self.tokens)
        if self.words is None:
            del result["words"]
        else:
            result["words"] = [asdict(word) for word in self.words]
        return result


@dataclass(frozen=True)
class Transcription:
    """A whole transcription. ``duration`` is the length of the audio in seconds."""

    text: str
    segments: tuple[Segment, ...]
    language: str
    duration: float = field(default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """openai-whisper's result dictionary: ``text``, ``segments`` and ``language``."""
        return {
            "text": self.text,
            "segments": [segment.to_dict() for segment in self.segments],
            "language": self.language,
        }
