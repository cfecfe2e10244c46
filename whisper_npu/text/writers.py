"""Transcripts as txt, vtt, srt, tsv and json, as openai-whisper writes them.

They are byte for byte its own, but for what programs cannot read or show. In subtitles there is no
cue for a segment without text or without length, no blank line or arrow in a cue, and no end before
its start. JSON has ``null`` for a number that is not finite. Dictionaries may be anybody's.

A segment's ``speaker``, if it has one, stands before its text: ``[left]: Hello.``, as WhisperX
writes it, and in vtt as a voice, ``<v left>Hello.``. No cue has words of two speakers.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from whisper_npu.errors import OutputError
from whisper_npu.files.temporary import temporary_file
from whisper_npu.files.whole import replacing, writing

# A result dictionary: ``text``, ``segments`` and ``language``, as ``Transcription.to_dict`` gives.
Result = Mapping[str, Any]
# Start and end in seconds, the text, and who speaks.
Cue = tuple[float, float, str, str | None]

_LONG_PAUSE = 3.0
_NO_LIMIT = 1000
_ADVICE = "free the name or choose another folder with --output_dir"
_INDENTED = re.compile(r"(\s*)(.*)$")
_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class LineOptions:
    """How vtt and srt cues are cut; all of it needs word timestamps.

    ``highlight_words`` underlines each word as it is spoken. With ``max_line_width`` (characters)
    lines are broken; with ``max_line_count`` as well, cues run across segments and are cut at so
    many lines or at a pause of 3 s. ``max_words_per_line`` (words) cuts segments into shorter cues.
    """

    highlight_words: bool = False
    max_line_width: int | None = None
    max_line_count: int | None = None
    max_words_per_line: int | None = None


@dataclass(frozen=True)
class _Word:
    start: float
    end: float
    text: str


def format_timestamp(
    seconds: float, always_include_hours: bool = False, decimal_marker: str = "."
) -> str:
    """``[HH:]MM:SS.mmm``. Raises ValueError if ``seconds`` is negative."""
    if seconds < 0:
        raise ValueError(f"a timestamp cannot be negative: {seconds}")
    rest, milliseconds = divmod(round(seconds * 1000.0), 1000)
    rest, whole_seconds = divmod(rest, 60)
    hours, minutes = divmod(rest, 60)
    prefix = f"{hours:02d}:" if always_include_hours or hours else ""
    return f"{prefix}{minutes:02d}:{whole_seconds:02d}{decimal_marker}{milliseconds:03d}"


def with_speaker(text: str, speaker: str | None) -> str:
    """``[speaker]: text``, or the text alone if there is no speaker or no text."""
    return text if speaker is None or not text else f"[{speaker}]: {text.lstrip()}"


def _line(segment: Mapping[str, Any]) -> str:
    return with_speaker(segment["text"].strip(), _speaker(segment))


def _speaker(segment: Mapping[str, Any]) -> str | None:
    """Who speaks, on one line, None if that is not known."""
    return " ".join(str(segment.get("speaker") or "").split()).replace("-->", "->") or None


def render_txt(result: Result, options: LineOptions) -> str:
    """One segment per line."""
    return "".join(f"{_line(segment)}\n" for segment in result["segments"])


def render_vtt(result: Result, options: LineOptions) -> str:
    """WebVTT; hours are left out when they are 0."""
    cues = _cues(result["segments"], options)
    return "WEBVTT\n\n" + "".join(
        f"{format_timestamp(start)} --> {format_timestamp(end)}\n{_voice(speaker)}{text}\n\n"
        for start, end, text, speaker in cues
    )


def _voice(speaker: str | None) -> str:
    """The tag that begins a cue of WebVTT; it lasts to the end of the cue."""
    if speaker is None:
        return ""
    # Imported here: most results name no speaker.
    from html import escape

    return f"<v {escape(speaker, quote=False)}>"


def render_srt(result: Result, options: LineOptions) -> str:
    """SubRip; cues are numbered from 1."""
    cues = _cues(result["segments"], options)
    return "".join(
        f"{i}\n{format_timestamp(start, True, ',')} --> {format_timestamp(end, True, ',')}\n"
        f"{with_speaker(text, speaker)}\n\n"
        for i, (start, end, text, speaker) in enumerate(cues, start=1)
    )


def render_tsv(result: Result, options: LineOptions) -> str:
    """Start and end in whole milliseconds, and the text without tabs."""
    lines = ["start\tend\ttext\n"]
    for segment in result["segments"]:
        start, end = (round(1000 * seconds) for seconds in _span(segment["start"], segment["end"]))
        text = _line(segment).replace("\t", " ")
        lines.append(f"{start}\t{end}\t{text}\n")
    return "".join(lines)


def render_json(result: Result, options: LineOptions) -> str:
    """The result dictionary, in ASCII."""
    try:
        return json.dumps(result, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(result))


def _finite(value: Any) -> Any:
    """A value with None for all numbers in it that are not finite: JSON has none."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


RENDERERS: Mapping[str, Callable[[Result, LineOptions], str]] = {
    "txt": render_txt,
    "vtt": render_vtt,
    "srt": render_srt,
    "tsv": render_tsv,
    "json": render_json,
}
OUTPUT_FORMATS = (*RENDERERS, "all")


def write_result(
    result: Result,
    output_dir: str | os.PathLike[str],
    stem: str,
    output_format: str,
    options: LineOptions | None = None,
) -> list[Path]:
    """Write ``<output_dir>/<stem>.<format>`` and return the paths; "all" writes every format.

    Each file appears complete or not at all; a folder that is gone is made again. Raises
    OutputError if one cannot be written.
    """
    formats = list(RENDERERS) if output_format == "all" else [output_format]
    options = options or LineOptions()
    paths = []
    for extension in formats:
        path = Path(output_dir, f"{stem}.{extension}")
        with writing(path, _ADVICE):
            # It may have been removed meanwhile.
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as new:
                new.write_text(RENDERERS[extension](result, options), "utf-8", "replace")
        paths.append(path)
    return paths


def prepare_output_dir(output_dir: str | os.PathLike[str]) -> None:
    """Create the folder if need be. Raises OutputError if it cannot be created or written to."""
    try:
        os.makedirs(output_dir, exist_ok=True)
        with temporary_file(Path(output_dir, "probe")):
            pass
    # ValueError: for names that no file can have.
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{os.fspath(output_dir)}: cannot write to this folder "
            f"({getattr(error, 'strerror', None) or error}); choose another with --output_dir"
        ) from error


def _cues(segments: Sequence[Mapping[str, Any]], options: LineOptions) -> Sequence[Cue]:
    """The cues of segments that have a length. All have text, and nothing in it ends a cue.

    Those of speakers come by their start, as WebVTT asks: a segment of one that is cut into several
    may begin before others and end after them.
    """
    cues = list(_cues_of_runs(segments, options))
    if any(speaker is not None for *_, speaker in cues):
        cues.sort(key=lambda cue: cue[0])
    return cues


def _cues_of_runs(segments: Sequence[Mapping[str, Any]], options: LineOptions) -> Iterator[Cue]:
    """The cues of each run of segments of one speaker."""
    lasting = [segment for segment in segments if segment["start"] < segment["end"]]
    for speaker, run in groupby(lasting, _speaker):
        for start, end, text in _raw_cues(list(run), options):
            lines = [line for line in _LINE_END.split(text.replace("-->", "->")) if line.strip()]
            if lines:
                yield *_span(start, end), "\n".join(lines), speaker


def _raw_cues(
    segments: Sequence[Mapping[str, Any]], options: LineOptions
) -> Iterator[tuple[float, float, str]]:
    # openai-whisper looks at the first segment only, and fails if that is an emptied one (which has
    # an empty list of words even without word timestamps) and another has no words.
    if not all("words" in segment for segment in segments):
        for segment in segments:
            yield segment["start"], segment["end"], segment["text"].strip()
        return
    for words in _word_cues(segments, options):
        if options.highlight_words:
            yield from _highlighted(words)
        else:
            yield words[0].start, words[-1].end, "".join(word.text for word in words)


def _span(start: float, end: float) -> tuple[float, float]:
    """Times of which none is negative and the end is not before the start."""
    start = max(0.0, start)
    return start, max(start, end)


def _word_cues(
    segments: Sequence[Mapping[str, Any]], options: LineOptions
) -> Iterator[list[_Word]]:
    """Group words into cues; a word's text begins with a line break where a line begins."""
    width, max_lines = options.max_line_width or _NO_LIMIT, options.max_line_count or _NO_LIMIT
    flowing = bool(options.max_line_width and options.max_line_count)
    cue: list[_Word] = []
    line_length, n_lines = 0, 1
    previous: float | None = None
    for word, starts_group in _grouped_words(segments, options.max_words_per_line or _NO_LIMIT):
        pause = flowing and previous is not None and word.start - previous > _LONG_PAUSE
        next_group = starts_group and bool(cue) and not flowing
        text = word.text
        fits = line_length > 0 and line_length + len(text) <= width
        if fits and not pause and not next_group:
            line_length += len(text)
        else:
            text = text.strip()
            if cue and (pause or n_lines >= max_lines or next_group):
                yield cue
                cue, n_lines = [], 1
            elif line_length > 0:
                n_lines += 1
                text = "\n" + text
            line_length = len(text.strip())
        cue.append(_Word(word.start, word.end, text))
        previous = word.start
    if cue:
        yield cue


def _grouped_words(
    segments: Sequence[Mapping[str, Any]], max_words: int
) -> Iterator[tuple[_Word, bool]]:
    """All words; with each, whether it begins a segment or a part of one of ``max_words``."""
    for segment in segments:
        for i, word in enumerate(segment["words"]):
            yield _Word(word["start"], word["end"], word["word"]), i % max_words == 0


def _highlighted(words: list[_Word]) -> Iterator[tuple[float, float, str]]:
    """A cue for each word with the word underlined, and plain cues for the pauses between them."""
    plain = "".join(word.text for word in words)
    last = words[0].start
    for i, word in enumerate(words):
        # Words may overlap: then there is no pause.
        if round(1000 * last) < round(1000 * word.start):
            yield last, word.start, plain
        yield (
            word.start,
            word.end,
            "".join(_underline(w.text) if j == i else w.text for j, w in enumerate(words)),
        )
        last = max(word.start, word.end)


def _underline(text: str) -> str:
    match = _INDENTED.match(text)
    if match is None:  # a line break inside the word
        return text
    return f"{match[1]}<u>{match[2]}</u>{text[match.end() :]}"
