"""A transcriber that makes its text up."""

from __future__ import annotations

from collections.abc import Iterator

from whisper_npu.decoding.options import TranscribeOptions
from whisper_npu.results import Segment, Transcription, Word


class FakeStream:
    """Two segments; the file's name is in their text."""

    n_frames = 1000

    def __init__(self, name: str, options: TranscribeOptions) -> None:
        self.language = options.language or "cy"
        self.language_probability = None if options.language else 0.987
        self.seek = 0
        self._words = options.word_timestamps
        self._text = f" {name} →"
        self._found: list[Segment] = []

    def __iter__(self) -> Iterator[Segment]:
        for i in range(2):
            start = 2.5 * i
            words = (Word(self._text, start, start + 2.5, 0.5),) if self._words else None
            segment = Segment(
                i, 0, start, start + 2.5, self._text, (1, 2), 0.0, -0.5, 1.0, 0.1, words
            )
            self._found.append(segment)
            self.seek = 250 * (i + 1)
            yield segment

    def result(self) -> Transcription:
        return Transcription(2 * self._text, tuple(self._found), self.language, 10.0)

    def close(self) -> None:
        pass


class FakeTranscriber:
    def __init__(self) -> None:
        self.calls: list[tuple[str, TranscribeOptions]] = []
        self.fails: dict[str, Exception] = {}

    def segments(self, audio: str, options: TranscribeOptions) -> FakeStream:
        self.calls.append((audio, options))
        if audio in self.fails:
            raise self.fails[audio]
        return FakeStream(audio, options)
