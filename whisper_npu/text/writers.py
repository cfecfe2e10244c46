"""Transcripts as txt, vtt, srt, tsv and json, byte for byte as openai-whisper writes them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whisper_npu.errors import OutputError
from whisper_npu.files.whole import replacing, temporary_name, writing

# A result dictionary: ``text``, ``segments`` and ``language``, as ``Transcription.to_dict`` gives.
Result = Mapping[str, Any]
Cue = tuple[str, str, str]

_LONG_PAUSE = 3.0
_NO_LIMIT = 1000
_ADVICE = "free the name or choose another folder with --output_dir"
_INDENTED = re.compile(r"(\s*)(.*)$")


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


def render_txt(result: Result, options: LineOptions) -> str:
    """One segment per line."""
    return "".join(f"{segment['text'].strip()}\n" for segment in result["segments"])


def render_vtt(result: Result, options: LineOptions) -> str:
    """WebVTT; hours are left out when they are 0."""
    cues = _cues(result["segments"], options, format_timestamp)
    return "WEBVTT\n\n" + "".join(f"{start} --> {end}\n{text}\n\n" for start, end, text in cues)


def render_srt(result: Result, options: LineOptions) -> str:
    """SubRip; cues are numbered from 1."""
    cues = _cues(result["segments"], options, lambda s: format_timestamp(s, True, ","))
    return "".join(
        f"{i}\n{start} --> {end}\n{text}\n\n" for i, (start, end, text) in enumerate(cues, start=1)
    )


def render_tsv(result: Result, options: LineOptions) -> str:
    """Start and end in whole milliseconds, and the text without tabs."""
    lines = ["start\tend\ttext\n"]
    for segment in result["segments"]:
        start, end = (round(1000 * segment[key]) for key in ("start", "end"))
        text = segment["text"].strip().replace("\t", " ")
        lines.append(f"{start}\t{end}\t{text}\n")
    return "".join(lines)


def render_json(result: Result, options: LineOptions) -> str:
    """The result dictionary, in ASCII."""
    return json.dumps(result)


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

    Each file appears complete or not at all. Raises OutputError if one cannot be written.
    """
    formats = list(RENDERERS) if output_format == "all" else [output_format]
    options = options or LineOptions()
    paths = []
    for extension in formats:
        path = Path(output_dir, f"{stem}.{extension}")
        with writing(path, _ADVICE), replacing(path) as new:
            new.write_text(RENDERERS[extension](result, options), "utf-8", "replace")
        paths.append(path)
    return paths


def prepare_output_dir(output_dir: str | os.PathLike[str]) -> None:
    """Create the folder if need be. Raises OutputError if it cannot be created or written to."""
    try:
        os.makedirs(output_dir, exist_ok=True)
        probe = temporary_name(Path(output_dir, "probe"))
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"{os.fspath(output_dir)}: cannot write to this folder ({error.strerror}); "
            "choose another with --output_dir"
        ) from error


def _cues(
    segments: Sequence[Mapping[str, Any]], options: LineOptions, stamp: Callable[[float], str]
) -> Iterator[Cue]:
    # openai-whisper looks at the first segment only, and fails if that is an emptied one (which has
    # an empty list of words even without word timestamps) and another has no words.
    if not segments or not all("words" in segment for segment in segments):
        for segment in segments:
            text = segment["text"].strip().replace("-->", "->")
            yield stamp(segment["start"]), stamp(segment["end"]), text
        return
    for words in _word_cues(segments, options):
        start, end = stamp(words[0].start), stamp(words[-1].end)
        if options.highlight_words:
            yield from _highlighted(words, start, stamp)
        else:
            yield start, end, "".join(word.text for word in words)


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


def _highlighted(words: list[_Word], start: str, stamp: Callable[[float], str]) -> Iterator[Cue]:
    """A cue for each word with the word underlined, and plain cues for the pauses between them."""
    plain = "".join(word.text for word in words)
    last = start
    for i, word in enumerate(words):
        word_start, word_end = stamp(word.start), stamp(word.end)
        if last != word_start:
            yield last, word_start, plain
        yield (
            word_start,
            word_end,
            "".join(_underline(w.text) if j == i else w.text for j, w in enumerate(words)),
        )
        last = word_end


def _underline(text: str) -> str:
    match = _INDENTED.match(text)
    if match is None:  # a line break inside the word
        return text
    return f"{match[1]}<u>{match[2]}</u>{text[match.end() :]}"
