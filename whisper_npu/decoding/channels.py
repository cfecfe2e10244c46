"""The channels of a recording as its speakers: each is transcribed on its own."""

from __future__ import annotations

import heapq
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace

from whisper_npu.decoding.engine import Recording
from whisper_npu.decoding.options import TranscribeOptions
from whisper_npu.decoding.protocols import Features
from whisper_npu.decoding.timing import Heads
from whisper_npu.decoding.windows import Transcript, options_for_model
from whisper_npu.results import Segment
from whisper_npu.text.tokenizer import Tokenizer


def transcribe_channels(
    recording: Recording,
    tokenizer: Tokenizer,
    features: Mapping[str, Features],
    options: TranscribeOptions,
    heads: Heads,
) -> ChannelsTranscript:
    """As ``transcribe_windows``, for channels by their labels."""
    options = options_for_model(recording.model.dims, tokenizer, options)
    return ChannelsTranscript(
        {
            label: Transcript(recording, tokenizer, each, options, heads)
            for label, each in features.items()
        }
    )


class ChannelsTranscript(Iterator[Segment]):
    """The transcripts of some channels, by their labels, as one.

    Segments come by their start, numbered anew, with the label as ``speaker``. The language, and
    its probabilities, are those of the channel that was surest of it; where channels differ, a
    warning tells. ``seek`` and ``n_frames`` are the sums over all channels.
    """

    def __init__(self, transcripts: Mapping[str, Transcript]) -> None:
        self._transcripts = list(transcripts.values())
        surest = max(self._transcripts, key=_certainty)
        self.language, self.language_probs = surest.language, surest.language_probs
        self.language_probability = surest.language_probability
        self.n_frames = sum(transcript.n_frames for transcript in self._transcripts)
        self._merged = enumerate(
            heapq.merge(
                *(_spoken(transcript, label) for label, transcript in transcripts.items()),
                key=lambda found: found[0].start,
            )
        )
        # The tokens of each run of segments of one channel.
        self._runs: list[tuple[Transcript, list[int]]] = []
        languages = {label: transcript.language for label, transcript in transcripts.items()}
        if len(set(languages.values())) > 1:
            found = ", ".join(f"{label}: {language}" for label, language in languages.items())
            warnings.warn(
                f"the channels are transcribed in the languages that they seem to be in ({found}); "
                "if that is wrong, give the language",
                stacklevel=2,
            )

    @property
    def seek(self) -> int:
        return sum(transcript.seek for transcript in self._transcripts)

    @property
    def text(self) -> str:
        """The text of all segments so far, in their order."""
        return "".join(transcript.decode(tokens) for transcript, tokens in self._runs)

    def __next__(self) -> Segment:
        id, (segment, transcript) = next(self._merged)
        if not self._runs or self._runs[-1][0] is not transcript:
            self._runs.append((transcript, []))
        self._runs[-1][1].extend(segment.tokens)
        return replace(segment, id=id)


def _spoken(transcript: Transcript, label: str) -> Iterator[tuple[Segment, Transcript]]:
    for segment in transcript:
        yield replace(segment, speaker=label), transcript


def _certainty(transcript: Transcript) -> float:
    probability = transcript.language_probability
    return 1.0 if probability is None else probability
