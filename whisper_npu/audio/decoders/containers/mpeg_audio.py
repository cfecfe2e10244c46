"""MP3 files: recordings that were joined, frames that are missing, and lengths put right."""

from __future__ import annotations

import struct
from dataclasses import replace

from whisper_npu.audio.decoders.containers.mpeg_frames import (
    VBRI,
    Run,
    Skipped,
    info_offset,
    inspect,
)
from whisper_npu.audio.decoders.containers.part import Part
from whisper_npu.audio.decoders.reader import Reader

# Frames that hold nothing but the delays of encoder and decoder, at most.
_DELAY = 3
# Of every decoder, in samples.
_DECODER_DELAY = 529
# What is no frame at the end of a file and stands for less is not worth a line, in seconds.
_NOT_WORTH_A_LINE = 1.0


def parts(reader: Reader) -> list[Part]:
    """The runs of frames of an MP3 file; none if it is no such file."""
    found = inspect(reader)
    single = sum(isinstance(each, Run) for each in found) == 1
    parts: list[Part] = []
    lost = padding = 0.0
    left: float | None = None
    for recording in _recordings(found):
        runs = [each for each in recording if isinstance(each, Run)]
        if parts and runs[0].info is not None:
            padding += _header_seconds(reader, runs[0])
        seconds_of = _seconds_of_bytes(reader, recording)
        frame_seconds = runs[0].frame.samples / runs[0].frame.rate
        frames = _promised_frames(reader, runs[0])
        left = None if frames is None else (frames - _DELAY) * frame_seconds
        for each in recording:
            if isinstance(each, Skipped):
                lost += round(seconds_of * (each.end - each.start) / frame_seconds) * frame_seconds
                continue
            source = _with_length(reader, each)
            if source is None:
                source = reader if single else reader.part(each.start, each.end)
            least = each.seconds - _DELAY * frame_seconds
            left = None if left is None else left - lost
            promised = left if each is runs[-1] else None
            parts.append(Part(source, lost, padding, least, promised, read_to_end=False))
            left = None if left is None else left - each.seconds
            lost = padding = 0.0
    # Where an encoder's header tells the length, that says what is missing.
    if parts and left is None and lost > _NOT_WORTH_A_LINE:
        n_bytes = found[-1].end - found[-1].start
        note = (
            f"its last {n_bytes} bytes, about {lost:.1f} s, are no frames of MP3 (damaged, or of "
            "another format; get a complete copy)"
        )
        parts[-1] = replace(parts[-1], note=note)
    return parts


def _header_seconds(reader: Reader, run: Run) -> float:
    """What players that do not know of joined files play of an encoder's header, and its delay."""
    head = reader.at(run.start + (run.info or 0), 144)
    delay = 0
    if len(head) == 144 and head[7] & 15 == 15:
        delay = (head[141] << 4 | head[142] >> 4) + _DECODER_DELAY
    return (run.frame.samples + delay) / run.frame.rate


def _seconds_of_bytes(reader: Reader, recording: list[Run | Skipped]) -> float:
    """The audio that a byte between the frames of a recording stands for.

    It is what its frames let expect, or what is missing of what the encoder's header tells.
    """
    runs = [each for each in recording if isinstance(each, Run)]
    held = sum(each.end - each.start for each in runs)
    seconds = sum(each.seconds for each in runs)
    skipped = sum(each.end - each.start for each in recording if isinstance(each, Skipped))
    promised = _promised_frames(reader, runs[0])
    if promised is not None and skipped:
        missing = promised * runs[0].frame.samples / runs[0].frame.rate - seconds
        if missing * held < 2 * skipped * seconds:
            return max(0.0, missing) / skipped
    return seconds / held


def _with_length(reader: Reader, run: Run) -> Reader | None:
    """A reader of one run, with an encoder's header that tells how long it is; None if it does.

    mpg123 ends where that header says, or where the first frame's bit rate lets it expect the end:
    which is right without a header if all have the same. It prints on standard error what is wrong.
    """
    first = reader.at(run.start, run.frame.length)
    if run.info is not None:
        return _corrected(reader, run, first)
    if run.constant:
        return None
    offset = info_offset(run.frame, first[3] >= 0xC0)
    if run.frame.layer != 3 or offset + 16 > run.frame.length:
        return None
    # A frame of silence; the first bit of the header says whether there is a checksum.
    head = bytearray(first[:4] + bytes(run.frame.length - 4))
    head[1] |= 1
    length = run.end - run.start + len(head)
    struct.pack_into(">4sIII", head, offset, b"Info", 3, run.frames, length)
    return reader.part(run.start, run.end, bytes(head))


def _corrected(reader: Reader, run: Run, first: bytes) -> Reader | None:
    told = _promised_frames(reader, run)
    if run.info in (None, VBRI) or told is None:
        return None
    length = run.end - run.start
    told_length = struct.unpack_from(">I", first, run.info + 12)[0]
    if abs(told - run.frames) <= 1 and told_length in (length, length + 1):
        return None
    head = bytearray(first)
    struct.pack_into(">I", head, run.info + 8, run.frames)
    if head[run.info + 7] & 2:
        struct.pack_into(">I", head, run.info + 12, length)
    if head[run.info + 7] & 15 == 15 and run.frames < told:
        # The padding that LAME tells is at an end that is not there.
        head[run.info + 142] &= 0xF0
        head[run.info + 143] = 0
    return reader.part(run.start + len(head), run.end, bytes(head))


def _promised_frames(reader: Reader, run: Run) -> int | None:
    """The frames of audio that the encoder's header tells, if there is one."""
    if run.info is None:
        return None
    head = reader.at(run.start + run.info, 18)
    if run.info == VBRI and head[:4] == b"VBRI":
        return int.from_bytes(head[14:18], "big")
    return int.from_bytes(head[8:12], "big") if len(head) == 18 and head[7] & 1 else None


def _recordings(found: list[Run | Skipped]) -> list[list[Run | Skipped]]:
    """Runs by recording: one begins with an encoder's header, or where rate or layer change."""
    recordings: list[list[Run | Skipped]] = []
    previous: Run | None = None
    for part in found:
        if isinstance(part, Run):
            if previous is None:
                recordings = [[*(recordings[0] if recordings else []), part]]
            elif part.info is not None or (part.frame.rate, part.frame.layer) != (
                previous.frame.rate,
                previous.frame.layer,
            ):
                recordings.append([part])
            else:
                recordings[-1].append(part)
            previous = part
        elif recordings:
            recordings[-1].append(part)
        else:
            recordings.append([part])
    return recordings
