"""Outputs against those of openai-whisper, read back, and written whole or not at all."""

from __future__ import annotations

import io
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.transcripts import KEPT_OPTIONS, LINE_OPTIONS, TRANSCRIPTS
from whisper_npu.errors import OutputError
from whisper_npu.text import writers
from whisper_npu.text.writers import RENDERERS, LineOptions, format_timestamp, write_result

KEPT = json.loads((Path(__file__).parent.parent / "data" / "writers.json").read_text("utf-8"))
FORMATS = tuple(RENDERERS)


@pytest.mark.parametrize("extension", FORMATS)
def test_segments_as_openai_whisper(extension: str) -> None:
    result = RENDERERS[extension](TRANSCRIPTS["segments"], LineOptions())
    assert result == KEPT["segments"][extension]


@pytest.mark.parametrize("extension", ["vtt", "srt"])
@pytest.mark.parametrize("i", range(len(KEPT_OPTIONS)))
def test_words_as_openai_whisper(extension: str, i: int) -> None:
    result = RENDERERS[extension](TRANSCRIPTS["words"], LineOptions(**KEPT_OPTIONS[i]))
    assert result == KEPT["words"][i][extension]


def test_kept_options_differ() -> None:
    assert len({case["srt"] for case in KEPT["words"]}) == len(KEPT_OPTIONS)


@pytest.mark.parametrize(
    ("seconds", "short", "long"),
    [
        (0, "00:00.000", "00:00:00,000"),
        (0.0005, "00:00.000", "00:00:00,000"),  # half to even
        (0.0015, "00:00.002", "00:00:00,002"),
        (59.9996, "01:00.000", "00:01:00,000"),
        (3599.9994, "59:59.999", "00:59:59,999"),
        (3600, "01:00:00.000", "01:00:00,000"),
        (360000.25, "100:00:00.250", "100:00:00,250"),
    ],
)
def test_format_timestamp(seconds: float, short: str, long: str) -> None:
    assert format_timestamp(seconds) == short
    assert format_timestamp(seconds, True, ",") == long


def test_negative_timestamp() -> None:
    with pytest.raises(ValueError, match="a timestamp cannot be negative: -1"):
        format_timestamp(-1)


def test_an_emptied_segment_beside_segments_without_words() -> None:
    """openai-whisper fails on these; without word timestamps only emptied segments have words."""
    segments = [dict(segment) for segment in TRANSCRIPTS["segments"]["segments"]]
    expected = RENDERERS["srt"]({"segments": segments}, LineOptions())
    segments[0]["words"] = []
    assert RENDERERS["srt"]({"segments": segments}, LineOptions()) == expected


def test_no_segments() -> None:
    empty = {"text": "", "segments": [], "language": "en"}
    rendered = {extension: RENDERERS[extension](empty, LineOptions()) for extension in FORMATS}
    assert rendered == {
        "txt": "",
        "vtt": "WEBVTT\n\n",
        "srt": "",
        "tsv": "start\tend\ttext\n",
        "json": '{"text": "", "segments": [], "language": "en"}',
    }


class TestFiles:
    RESULT = TRANSCRIPTS["segments"]

    @pytest.mark.parametrize("output_format", [*FORMATS, "all"])
    def test_names_and_contents(self, tmp_path: Path, output_format: str) -> None:
        paths = write_result(self.RESULT, tmp_path, "näme.1", output_format)
        formats = FORMATS if output_format == "all" else (output_format,)
        assert paths == [tmp_path / f"näme.1.{extension}" for extension in formats]
        assert sorted(tmp_path.iterdir()) == sorted(paths)
        for path, extension in zip(paths, formats, strict=True):
            assert path.read_bytes() == KEPT["segments"][extension].encode()

    def test_replaces_and_has_the_usual_permissions(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("old")
        (path,) = write_result(self.RESULT, tmp_path, "a", "txt")
        assert path.read_bytes() == KEPT["segments"]["txt"].encode()
        usual = tmp_path / "usual"
        usual.touch()
        assert path.stat().st_mode == usual.stat().st_mode

    def test_a_lone_surrogate_does_not_cost_the_file(self, tmp_path: Path) -> None:
        result = {"segments": [{"start": 0, "end": 1, "text": "a\ud800b"}]}
        (path,) = write_result(result, tmp_path, "a", "txt")
        assert path.read_text() == "a?b\n"

    @pytest.mark.parametrize("step", ["write", "replace"])
    def test_nothing_half_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        (tmp_path / "a.txt").write_text("old")

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        if step == "replace":
            monkeypatch.setattr(os, "replace", full)
        else:

            def half(path: Path, text: str, *_: object) -> None:
                path.write_bytes(text[:5].encode())
                full()

            monkeypatch.setattr(Path, "write_text", half)
        with pytest.raises(OutputError, match=r"a\.txt: cannot be written \(No space left"):
            write_result(self.RESULT, tmp_path, "a", "txt")
        monkeypatch.undo()
        assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
        assert (tmp_path / "a.txt").read_text() == "old"

    def test_a_folder_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").mkdir()
        with pytest.raises(OutputError, match=r"a\.txt: cannot be written \(Is a directory\); "):
            write_result(self.RESULT, tmp_path, "a", "txt")
        assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]

    def test_prepare_output_dir(self, tmp_path: Path) -> None:
        folder = tmp_path / "a" / "b"
        writers.prepare_output_dir(folder)
        writers.prepare_output_dir(folder)
        assert list(folder.iterdir()) == []

    def test_an_output_dir_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for folder in (tmp_path / "file", tmp_path / "file" / "sub"):
            message = f"^{re.escape(str(folder))}: cannot write to this folder .*--output_dir$"
            with pytest.raises(OutputError, match=message):
                writers.prepare_output_dir(folder)

    def test_an_output_dir_without_permission(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def forbidden(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "open", forbidden)
        with pytest.raises(OutputError, match=r"cannot write to this folder \(Permission denied"):
            writers.prepare_output_dir(tmp_path)


# Any text, with what has a meaning in one of the formats made likely.
texts = st.lists(
    st.one_of(
        st.text(st.characters(codec="utf-8"), max_size=8),
        st.sampled_from(
            ["-->", "\t", "\n", "\n\n", "\r", "\0", "\u2028", '"', "\\", "<u>", "WEBVTT"]
        ),
    ),
    max_size=4,
).map(" ".join)
times = st.tuples(st.floats(0, 400000), st.floats(0, 60)).map(lambda t: (t[0], t[0] + t[1]))
words = st.builds(
    lambda text, time: {"word": text, "start": time[0], "end": time[1], "probability": 0.5},
    texts,
    times,
)


def _segment(text: str, time: tuple[float, float], *words: list[dict[str, Any]]) -> dict[str, Any]:
    segment: dict[str, Any] = {"text": text, "start": time[0], "end": time[1]}
    if words:
        segment["words"] = words[0]
    return segment


segment_lists = st.one_of(
    st.lists(st.builds(_segment, texts, times), max_size=4),
    st.lists(st.builds(_segment, texts, times, st.lists(words, max_size=7)), max_size=4),
)
limits = st.one_of(st.none(), st.integers(0, 20))
readable = (
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1, max_size=8)
    .filter(str.strip)
    .filter(lambda text: "-" not in text)
)
line_options = st.fixed_dictionaries(
    {
        "highlight_words": st.booleans(),
        "max_line_width": limits,
        "max_line_count": limits,
        "max_words_per_line": limits,
    }
)


@given(segment_lists)
def test_json_and_tsv_can_be_read_back(segments: list[dict[str, Any]]) -> None:
    result = {"text": "".join(s["text"] for s in segments), "segments": segments, "language": "en"}
    assert json.loads(RENDERERS["json"](result, LineOptions())) == result
    one_line = [{**s, "text": " ".join(s["text"].split())} for s in segments]
    header, *rows = RENDERERS["tsv"]({"segments": one_line}, LineOptions()).splitlines()
    assert header == "start\tend\ttext"
    for row, segment in zip(rows, one_line, strict=True):
        start, end, text = row.split("\t")
        assert (int(start), int(end)) == (
            round(1000 * segment["start"]),
            round(1000 * segment["end"]),
        )
        assert text == segment["text"]


STAMP = r"(?:(\d\d+):)?(\d\d):(\d\d)[.,](\d\d\d)"


def read_cues(text: str) -> list[tuple[int, int, str]]:
    """Start and end in ms and the text of all cues, as programs find them: between blank lines."""
    cues = []
    *blocks, rest = re.split(r"\n[^\S\n]*\n", text.removeprefix("WEBVTT\n\n"))
    assert rest == ""
    for i, block in enumerate(blocks, start=1):
        times, _, shown = (
            block if text.startswith("WEBVTT") else block.split("\n", 1)[1]
        ).partition("\n")
        if not text.startswith("WEBVTT"):
            assert block.startswith(f"{i}\n")
        found = re.fullmatch(f"{STAMP} --> {STAMP}", times)
        assert found is not None
        numbers = [int(part or 0) for part in found.groups()]
        start, end = (
            ms + 1000 * (s + 60 * (m + 60 * h)) for h, m, s, ms in (numbers[:4], numbers[4:])
        )
        cues.append((start, end, shown))
    return cues


@given(segment_lists, line_options)
def test_cues_can_be_read_back(segments: list[dict[str, Any]], options: dict[str, Any]) -> None:
    """One cue for each segment that has text and length, with its times and text."""
    for segment in segments:
        segment.pop("words", None)
        segment["text"] = " ".join(segment["text"].split())
    expected = [
        (round(1000 * s["start"]), round(1000 * s["end"]), s["text"].replace("-->", "->"))
        for s in segments
        if s["text"] and s["start"] < s["end"]
    ]
    for extension in ("srt", "vtt"):
        text = RENDERERS[extension]({"segments": segments}, LineOptions(**options))
        assert read_cues(text) == expected


any_times = st.tuples(st.floats(-5, 60), st.floats(-5, 60))
any_words = st.builds(
    lambda text, time: {"word": text, "start": time[0], "end": time[1], "probability": 0.5},
    texts,
    any_times,
)


@given(
    st.lists(
        st.one_of(
            st.builds(_segment, texts, any_times),
            st.builds(_segment, texts, any_times, st.lists(any_words, max_size=7)),
        ),
        max_size=4,
    ),
    line_options,
)
def test_cues_of_any_dictionary(segments: list[dict[str, Any]], options: dict[str, Any]) -> None:
    """None without text, with an arrow or a blank line in it, or with an end before its start."""
    for extension in ("srt", "vtt"):
        text = RENDERERS[extension]({"segments": segments}, LineOptions(**options))
        for start, end, shown in read_cues(text):
            assert 0 <= start <= end
            assert shown.strip()
            assert "-->" not in shown
    rows = RENDERERS["tsv"]({"segments": segments}, LineOptions())
    for start, end in re.findall(r"^(-?\d+)\t(-?\d+)\t", rows, re.MULTILINE):
        assert 0 <= int(start) <= int(end)


def test_highlighted_words_that_overlap() -> None:
    words = [
        {"word": " one", "start": 0.0, "end": 2.0, "probability": 1.0},
        {"word": " two", "start": 1.5, "end": 1.2, "probability": 1.0},
        {"word": " three", "start": 1.8, "end": 3.0, "probability": 1.0},
    ]
    segment = {"start": 0.0, "end": 3.0, "text": " one two three", "words": words}
    srt = RENDERERS["srt"]({"segments": [segment]}, LineOptions(highlight_words=True))
    assert read_cues(srt) == [
        (0, 2000, "<u>one</u> two three"),
        (1500, 1500, "one <u>two</u> three"),
        (1500, 1800, "one two three"),
        (1800, 3000, "one two <u>three</u>"),
    ]


def test_numbers_that_json_has_not() -> None:
    segment = {"start": 0.0, "end": 1.0, "text": " a", "tokens": (1, 2), "no_speech_prob": math.nan}
    rendered = RENDERERS["json"]({"segments": [segment], "x": -math.inf}, LineOptions())

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    read = json.loads(rendered, parse_constant=refuse)
    assert read == {"segments": [{**segment, "tokens": [1, 2], "no_speech_prob": None}], "x": None}


@st.composite
def readable_segments(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Segments that follow each other, with text and without what ends a cue."""
    with_words = draw(st.booleans())
    segments, at = [], 0.0
    for parts in draw(st.lists(st.lists(readable, min_size=1, max_size=7), max_size=4)):
        words = []
        for part in parts:
            start = at + draw(st.sampled_from([0.0, 0.01, 0.5, 3.5]))
            at = start + draw(st.floats(0.01, 60))
            words.append({"word": f" {part}", "start": start, "end": at, "probability": 0.5})
        segment = {"text": " ".join(parts), "start": words[0]["start"], "end": at}
        segments.append({**segment, "words": words} if with_words else segment)
    return segments


@pytest.mark.reference
class TestOpenaiWhisper:
    @staticmethod
    def compare(result: dict[str, Any], options: dict[str, Any]) -> None:
        utils = pytest.importorskip("whisper.utils")
        for extension in FORMATS:
            file = io.StringIO()
            utils.get_writer(extension, ".").write_result(result, file, **options)
            assert RENDERERS[extension](result, LineOptions(**options)) == file.getvalue()

    @pytest.mark.parametrize("name", TRANSCRIPTS)
    def test_all_options(self, name: str) -> None:
        for options in LINE_OPTIONS:
            self.compare(TRANSCRIPTS[name], options)

    @given(readable_segments(), line_options)
    @settings(deadline=None, max_examples=300)
    def test_any_readable_result(
        self, segments: list[dict[str, Any]], options: dict[str, Any]
    ) -> None:
        self.compare({"text": "", "segments": segments, "language": "en"}, options)
