"""Segments as they are decoded."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import ExitStack
from typing import Any

from whisper_npu.decoding.channels import ChannelsTranscript
from whisper_npu.decoding.windows import Transcript
from whisper_npu.results import Placement, Segment, Transcription
from whisper_npu.runtime.usage import notice_of


class SegmentStream(Iterator[Segment]):
    """An iterator over the segments of a recording; made by ``Transcriber.segments``."""

    def __init__(
        self,
        transcript: Transcript | ChannelsTranscript,
        duration: float,
        placement: Callable[[], Placement],
        opened: ExitStack,
    ) -> None:
        self._transcript, self._duration, self._placement = transcript, duration, placement
        # At the end of the stream, or when it is dropped.
        self._give_up = weakref.finalize(self, opened.close)
        self._segments: list[Segment] = []
        self._told = False

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            "a SegmentStream is a transcription under way and can be neither pickled nor copied; "
            "its segments and its result() can"
        )

    @property
    def language(self) -> str:
        """Code of the language, given or detected."""
        return self._transcript.language

    @property
    def language_probability(self) -> float | None:
        """Probability of the language, if it was detected."""
        return self._transcript.language_probability

    @property
    def language_probs(self) -> Mapping[str, float] | None:
        """Probabilities of all languages by code in the window that the language was detected from,
        if it was."""
        return self._transcript.language_probs

    @property
    def duration(self) -> float:
        """Length of the audio in seconds."""
        return self._duration

    @property
    def seek(self) -> int:
        """Position in mel frames (10 ms), out of ``n_frames``."""
        return self._transcript.seek

    @property
    def n_frames(self) -> int:
        """Length of the audio in mel frames, of all channels where each is transcribed."""
        return self._transcript.n_frames

    @property
    def text(self) -> str:
        """The text of all segments so far."""
        return self._transcript.text

    def __next__(self) -> Segment:
        try:
            segment = next(self._transcript)
        except StopIteration:
            self.close()
            self._tell_of_saturation()
            raise
        except BaseException as error:
            closed = not self._give_up.alive
            self.close()
            if closed and isinstance(error, Exception) and not isinstance(error, CancelledError):
                # Audio that was closed, and whatever else met with the end.
                raise CancelledError("the recording was closed") from error
            raise
        self._segments.append(segment)
        return segment

    def close(self) -> None:
        """Give up what is not decoded yet. From another thread, that ends ``next`` with
        ``concurrent.futures.CancelledError``."""
        self._give_up()

    def __enter__(self) -> SegmentStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tell_of_saturation(self) -> None:
        """At the end of the recording, once."""
        notice = None if self._told else notice_of(self._placement().saturations)
        self._told = True
        if notice is not None:
            warnings.warn(notice, stacklevel=3)

    def result(self) -> Transcription:
        """The transcription as far as it has been decoded: the whole of it at the end."""
        return Transcription(
            self.text,
            tuple(self._segments),
            self.language,
            self.duration,
            self._placement(),
            self.language_probability,
        )
