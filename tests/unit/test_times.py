"""Times that are given out lie within the audio, unless openai-whisper's own are asked for."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.decoding_fakes import small_tokenizer, transcript
from whisper_npu.cli import main
from whisper_npu.decoding import words
from whisper_npu.decoding.times import last_time, within
from whisper_npu.decoding.timing import WordTiming
from whisper_npu.results import Segment, Word
from whisper_npu.text.writers import format_timestamp

SAMPLES = Path(__file__).parents[2] / "samples"
BEGIN = small_tokenizer().timestamp_begin
A, B = (small_tokenizer().encode(text) for text in (" the water", " and the"))
PLAN = [BEGIN, *A, BEGIN + 20, BEGIN + 20, *B, BEGIN + 100, BEGIN + 120, *A, BEGIN + 150]


def test_no_segment_ends_after_the_audio() -> None:
    segments = list(transcript(PLAN, 90))
    assert [(s.start, s.end) for s in segments] == [(0.0, 0.4), (0.4, 0.9), (0.9, 0.9)]
    assert [s.text for s in segments] == [" the water", " and the", " the water"]
    raw = list(transcript(PLAN, 90, raw_timestamps=True))
    assert [(s.start, s.end) for s in raw] == [(0.0, 0.4), (0.4, 2.0), (2.4, 3.0)]
    assert [replace(s, start=0, end=0) for s in raw] == [
        replace(s, start=0, end=0) for s in segments
    ]


def test_nor_does_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    timings = [(0.0, 0.5), (0.5, 1.5), (2.0, 2.5)]
    found = [WordTiming(f" w{i}", [A[0]], *times, 0.9) for i, times in enumerate(timings)]
    monkeypatch.setattr(words, "find_alignment", lambda *_: [replace(word) for word in found])
    plan = [BEGIN, *A[:1] * 3, BEGIN + 125]
    (segment,) = transcript(plan, 90, word_timestamps=True)
    assert segment.words is not None
    assert [(w.start, w.end) for w in segment.words] == [(0.0, 0.5), (0.5, 0.9), (0.9, 0.9)]
    assert segment.end == 0.9
    (raw,) = transcript(plan, 90, word_timestamps=True, raw_timestamps=True)
    assert raw.words is not None
    assert [(w.start, w.end) for w in raw.words] == [(0.0, 0.5), (0.5, 1.5), (2.0, 2.5)]


numbers = st.floats(-1, 100)


@given(numbers, numbers, st.lists(st.tuples(numbers, numbers)), st.integers(0, 90 * 16000))
def test_within(start: float, end: float, spans: list[tuple[float, float]], n: int) -> None:
    given_words = tuple(Word("a", *span, 1.0) for span in spans)
    segment = Segment(0, 0, start, end, "a", (1,), 0.0, 0.0, 1.0, 0.0, given_words)
    found = within(segment, last_time(n / 16000))
    assert found.words is not None
    assert len(found.words) == len(given_words)
    for before, after in zip((segment, *given_words), (found, *found.words), strict=True):
        assert after.start <= after.end <= n / 16000
        if before.start <= before.end <= n / 16000 - 0.001:
            assert after in (before, found)


def test_the_last_time_is_not_rounded_up() -> None:
    duration = 175 / 16000  # 10.9375 ms
    assert format_timestamp(duration) == "00:00.011"
    assert format_timestamp(last_time(duration)) == "00:00.010"


@pytest.mark.parametrize("words", ["False", "True"])
def test_half_a_second(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str) -> None:
    """In no output of the command is there a time after the end."""
    samples, rate = soundfile.read(SAMPLES / "jfk.flac", start=152000, frames=8000)
    soundfile.write(tmp_path / "half.wav", samples, rate)
    shared = [str(tmp_path / "half.wav"), "--model", "demo", "--language", "en", "-o"]
    options = ["--word_timestamps", words, "--highlight_words", words, "--no_speech_threshold=None"]
    assert main(["transcribe", *shared, str(tmp_path), *options]) == 0
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "half.json").read_text())
    assert result["segments"]
    spans = [(s["start"], s["end"]) for s in result["segments"]]
    spans += [(w["start"], w["end"]) for s in result["segments"] for w in s.get("words", ())]
    for row in (tmp_path / "half.tsv").read_text().splitlines()[1:]:
        start, end, _ = row.split("\t", 2)
        spans.append((int(start) / 1000, int(end) / 1000))
    for text in (printed, *((tmp_path / f"half.{kind}").read_text() for kind in ("srt", "vtt"))):
        stamps = [
            float(minutes) * 60 + float(seconds.replace(",", "."))
            for minutes, seconds in re.findall(r"(\d\d):(\d\d[.,]\d{3})", text)
        ]
        spans += zip(stamps[::2], stamps[1::2], strict=True)
    assert all(0 <= start <= end <= 0.5 for start, end in spans)
    if words == "False":
        # It is not for want of such times: the model says one.
        again = [*shared, str(tmp_path), *options, "--raw_timestamps=True"]
        assert main(["transcribe", *again]) == 0
        raw = json.loads((tmp_path / "half.json").read_text())
        assert raw["segments"][-1]["end"] > 0.5
