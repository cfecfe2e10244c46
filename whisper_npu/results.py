"""What a transcription returns: frozen dataclasses with openai-whisper's field names."""

from __future__ import annotations

from collections.abc import Mapping
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
    ``words`` is None unless word timestamps were asked for, ``speaker`` unless each channel was
    transcribed on its own: it names the channel. ``language`` is the code of the language that was
    detected in its window, None unless ``multilingual`` was asked for.
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
    speaker: str | None = None
    language: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The dictionary that openai-whisper would give (no ``words`` where there are none), with
        ``speaker`` and ``language`` if there are any."""
        result = asdict(self)
        result["tokens"] = list(self.tokens)
        if self.words is None:
            del result["words"]
        else:
            result["words"] = [asdict(word) for word in self.words]
        for name in ("speaker", "language"):
            if result[name] is None:
                del result[name]
        return result


@dataclass(frozen=True)
class Fallback:
    """An op that was to run on a kernel and ran on NumPy: since when and why."""

    phase: str
    op: str
    kernel: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Saturation:
    """An op of ``int8`` in which values of the residual stream were cut to the largest number.

    That was so in ``runs`` runs of its phase.
    """

    phase: str
    op: str
    runs: int


@dataclass(frozen=True)
class Placement:
    """Where the ops of one transcription ran.

    ``ops`` counts executed ops by kind and backend (``numpy`` or the kernel's name), ``seconds``
    is the wall time of each phase. ``fallbacks`` are those of the model since it was loaded.
    ``saturations`` are the ops of this transcription whose results cannot be trusted; there are
    none in a model that int8 suits. Of the ``launches``, ``proofs`` were proven by the checksums of
    their products, and ``checks`` compared with what NumPy computes.
    ``precision_reason`` says why ``precision`` was chosen; ``instruction_set`` is that of the CPU
    kernels, None without them.
    """

    device: str | None
    precision: str
    precision_reason: str
    instruction_set: str | None
    ops: Mapping[str, Mapping[str, int]]
    launches: int
    bytes_to_device: int
    bytes_from_device: int
    resident_bytes: int
    proofs: int
    checks: int
    fallbacks: tuple[Fallback, ...]
    saturations: tuple[Saturation, ...]
    seconds: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Transcription:
    """A whole transcription.

    ``language_probability`` is that of the language if it was detected, else None. ``duration`` is
    the length of the audio in seconds; ``placement`` says where it was computed, and does not count
    when transcriptions are compared.
    """

    text: str
    segments: tuple[Segment, ...]
    language: str
    duration: float = field(default=0.0)
    placement: Placement | None = field(default=None, compare=False)
    language_probability: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """openai-whisper's result dictionary (``text``, ``segments``, ``language``), and
        ``placement``; with ``language_probability`` if the language was detected."""
        result: dict[str, Any] = {
            "text": self.text,
            "segments": [segment.to_dict() for segment in self.segments],
            "language": self.language,
        }
        if self.language_probability is not None:
            result["language_probability"] = self.language_probability
        if self.placement is not None:
            result["placement"] = self.placement.to_dict()
        return result
