"""One file: which decoder reads each of its parts, and what to do where one ends too early."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import IO

import soundfile

from whisper_npu.audio.blocks import DecodedBlock
from whisper_npu.audio.decoders.account import Account, silence
from whisper_npu.audio.decoders.containers import boxes, flac, parts_of
from whisper_npu.audio.decoders.containers.part import Part
from whisper_npu.audio.decoders.ffmpeg import NotForFFmpeg, decode_with_ffmpeg, has_av
from whisper_npu.audio.decoders.headerless import Headerless, headerless
from whisper_npu.audio.decoders.libsndfile import SequentialFile
from whisper_npu.audio.decoders.reader import Reader
from whisper_npu.audio.decoders.tracks import check_track
from whisper_npu.errors import AudioError

_GET_PYAV = 'pip install "whisper-npu[av]"'
_DAMAGED = f"some of it is damaged, and later times may be too early; to recover more: {_GET_PYAV}"
# Bytes that libsndfile may leave unread at the end of a file, of tags for example.
_LEFT_UNREAD = 4096
# Less than a sample, in seconds.
_SAMPLE = 1e-6


class Recording:
    """Decodes one file, part by part, and keeps its account."""

    def __init__(
        self, file: IO[bytes], name: str, block_seconds: float, audio_track: int | None
    ) -> None:
        self.reader = Reader(file)
        self.account = Account(name)
        self._block_seconds, self._track = block_seconds, audio_track
        self._has_av = has_av()
        # What comes before that which is decoded next, in seconds.
        self._lost = self._padding = 0.0
        self._waiting: deque[Part] = deque()

    def blocks(self) -> Iterator[DecodedBlock]:
        """All of the file. Raises AudioError if nothing in it can be decoded."""
        raw = headerless(self.account.name, self.reader.at(0, 8))
        if raw is not None:
            yield from self._headerless(self.reader, raw)
        else:
            self._waiting.extend(parts_of(self.reader))
        while self._waiting:
            part = self._waiting.popleft()
            self._lost += part.lost
            self._padding += part.padding
            yield from self._part(part)
            if part.note is not None:
                self.account.notes.append(part.note)
        self.reader.raise_error(self.account.name)
        if self.account.decoded == 0 and self.account.reason is not None:
            raise AudioError(
                f"{self.account.name}: nothing in it can be decoded ({self.account.reason}); "
                "get a complete copy"
            )

    def _part(self, part: Part) -> Iterator[DecodedBlock]:
        """A part of the file with libsndfile, or with FFmpeg if libsndfile does not know it."""
        if part.damaged and self._has_av:
            try:
                yield from self._with_ffmpeg(part.reader, None)
                return
            except NotForFFmpeg as refused:
                self.account.notes.append(f"it is damaged, and FFmpeg refuses it ({refused})")
        elif part.damaged:
            self.account.notes.append(_DAMAGED)
        try:
            file = SequentialFile(part.reader)
        except soundfile.LibsndfileError as error:
            self.reader.raise_error(self.account.name)
            yield from self._unknown_to_libsndfile(part.reader, error.error_string.rstrip("."))
        else:
            check_track(self._track, 1, self.account.name)
            with file:
                yield from self._with_libsndfile(file, part)

    def _with_libsndfile(self, file: SequentialFile, part: Part) -> Iterator[DecodedBlock]:
        reader, start = part.reader, self.account.position + self._lost + self._padding
        held = reason = following = None
        for block, error in file.blocks(self._block_seconds, past_errors=not self._has_av):
            if error is not None and self._has_av:
                # What is in a block with damage FFmpeg knows better.
                held, reason = block, error
                break
            yield from self._give(block)
            if error is not None and reason is None:
                reason, where = error, self.account.position
        self.reader.raise_error(self.account.name)
        if reason is not None and file.format == "FLAC":
            following = flac.next_start(reader)
            if self._ends_at(start, held, part.promised):
                # It was not damage, but a tag or another recording after the end.
                reason = None
        if held is not None and reason is None:
            yield from self._give(held)
        if reason is not None and held is None:
            self.account.notes.append(f"from {where:.2f} s on {_DAMAGED}")
        least = part.least
        if least is None:
            least = part.promised or (file.promised or 0) / file.samplerate
        done = self.account.position - start
        unread = reader.size - reader.furthest if part.read_to_end else 0
        if reason is not None or done < least - _SAMPLE or unread > _LEFT_UNREAD:
            rest = reader if following is None else reader.part(0, following)
            yield from self._go_on(rest, start, held, reason)
        promised = part.promised
        if promised is None and part.least is None and file.promised is not None:
            promised = file.promised / file.samplerate
        if promised is not None:
            self.account.compare(start + promised)
        if part.promised is None and (cut := boxes.what_is_cut(reader)) is not None:
            self.account.notes.append(f"{cut} (cut off; get a complete copy)")
        if following is not None:
            self._waiting.extendleft(flac.parts(reader.part(following, reader.size)))

    def _ends_at(self, start: float, held: DecodedBlock | None, promised: float | None) -> bool:
        end = self.account.position + (0.0 if held is None else _seconds(held))
        return promised is not None and abs(end - start - promised) < _SAMPLE

    def _go_on(
        self, reader: Reader, start: float, held: DecodedBlock | None, reason: str | None
    ) -> Iterator[DecodedBlock]:
        """The rest of a part, which began at ``start``, after libsndfile ended with ``reason``.

        If FFmpeg does not get as far as libsndfile did, what it ``held`` back is given.
        """
        done = self.account.position - start
        other = Account(self.account.name)
        passed = 0.0
        if self._has_av:
            try:
                for block in decode_with_ffmpeg(reader, other, self._block_seconds):
                    yield from self._give(_after(block, done - passed), counted=True)
                    passed += _seconds(block)
            except (NotForFFmpeg, AudioError) as error:
                other.failed(str(error))
            # What it says of the end the header says that libsndfile has read.
            other.notes.clear()
            self.account.merge(other, start, done)
        if held is not None:
            yield from self._give(_after(held, passed - done))
        if reason is not None:
            self.account.failed(reason)

    def _unknown_to_libsndfile(self, reader: Reader, reason: str) -> Iterator[DecodedBlock]:
        try:
            yield from self._with_ffmpeg(reader, None)
        except NotForFFmpeg as error:
            self.reader.raise_error(self.account.name)
            if self.account.decoded > 0:
                self.account.notes.append(f"what follows cannot be decoded ({error})")
            else:
                raise self._unknown(reason, error) from error

    def _unknown(self, reason: str, error: NotForFFmpeg) -> AudioError:
        name = self.account.name
        cut = boxes.what_is_cut(self.reader)
        if cut is not None and (self._has_av or cut is boxes.NO_INDEX):
            return AudioError(f"{name}: cannot be decoded: {cut}; get a complete copy")
        if not self._has_av:
            return AudioError(
                f"{name}: libsndfile cannot read it ({reason}); if it is audio in another format "
                f"(m4a, mp4, webm, ...): {_GET_PYAV}"
            )
        return AudioError(
            f"{name}: neither libsndfile ({reason}) nor FFmpeg ({error}) can read it; "
            "give an audio file"
        )

    def _with_ffmpeg(self, reader: Reader, raw: Headerless | None) -> Iterator[DecodedBlock]:
        if not self._has_av:
            raise NotForFFmpeg(f"PyAV is not installed: {_GET_PYAV}")
        other = Account(self.account.name)
        start = self.account.position + self._lost + self._padding
        for block in decode_with_ffmpeg(
            reader, other, self._block_seconds, track=self._track, raw=raw
        ):
            yield from self._give(block, counted=True)
        if not other.notes and (cut := boxes.what_is_cut(reader)) is not None:
            other.notes.append(f"{cut} (cut off; get a complete copy)")
        self.account.merge(other, start)

    def _headerless(self, reader: Reader, raw: Headerless) -> Iterator[DecodedBlock]:
        check_track(self._track, 1, self.account.name)
        if self._has_av:
            yield from self._with_ffmpeg(reader, raw)
        elif raw.subtype is not None:
            with SequentialFile(reader, raw.rate, raw.subtype) as file:
                for block, _ in file.blocks(self._block_seconds):
                    yield from self._give(block)
        else:
            raise AudioError(
                f"{self.account.name}: only FFmpeg reads {raw.demuxer} audio: {_GET_PYAV}"
            )

    def _give(self, block: DecodedBlock, *, counted: bool = False) -> Iterator[DecodedBlock]:
        """A block, after the silence that comes before it; ``counted`` by another account."""
        if not len(block.samples):
            return
        if self._lost:
            yield from self.account.gap(self._lost, self._lost, block)
        for padding in silence(self._padding, block):
            yield self.account.pass_on(padding)
        self._lost = self._padding = 0.0
        yield self.account.pass_on(block) if counted else self.account.add(block)


def _seconds(block: DecodedBlock) -> float:
    return len(block.samples) / block.rate


def _after(block: DecodedBlock, seconds: float) -> DecodedBlock:
    """What is in a block after its first seconds."""
    n = max(0, round(seconds * block.rate))
    return DecodedBlock(block.rate, block.samples[n:], block.layout)
