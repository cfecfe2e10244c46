"""One speaker a channel: each channel is transcribed on its own, and the transcripts are merged."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from tests.support.audio_samples import encode
from tests.support.rounding import but_for_rounding
from tests.unit.decoding_fakes import small_tokenizer
from whisper_npu import Segment, Transcriber, Transcription
from whisper_npu.audio import SAMPLE_RATE, load_audio, stream
from whisper_npu.cli import main
from whisper_npu.decoding.channels import ChannelsTranscript
from whisper_npu.decoding.windows import Transcript
from whisper_npu.errors import OptionError
from whisper_npu.ops.arrays import F32
from whisper_npu.text.writers import RENDERERS, LineOptions

SAMPLES = Path(__file__).parents[2] / "samples" / "synthetic"
SOUND = {name: load_audio(SAMPLES / f"{name}.flac") for name in ("weather", "message", "order")}
WEATHER = "It will be cool with a chance of sunshine."
MESSAGE = "All right, send a message to Deborah."


def at(seconds: float, *names: str) -> F32:
    """Recordings one after the other, each ``seconds`` after the end of the one before."""
    pause = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
    return np.concatenate([part for name in names for part in (pause, SOUND[name])])


def channels(*each: F32) -> F32:  # [n], [m], ... -> [max(n, m, ...), channels]
    n = max(map(len, each))
    return np.stack([np.pad(samples, (0, n - len(samples))) for samples in each], axis=1)


# The speakers take turns, and do not begin at once.
DIALOGUE = channels(at(0.0, "weather", "message"), at(4.0, "order", "weather"))


@pytest.fixture(scope="module")
def transcriber() -> Transcriber:
    return Transcriber("demo", precision="float32")


def spoken(result: Transcription) -> list[tuple[str | None, str]]:
    return [(segment.speaker, segment.text.strip()) for segment in result.segments]


def merged(*results: tuple[str, Transcription]) -> list[Segment]:
    """The segments of channels by their start, as they are expected."""
    found = [replace(s, speaker=label) for label, result in results for s in result.segments]
    return [
        replace(segment, id=i) for i, segment in enumerate(sorted(found, key=lambda s: s.start))
    ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"word_timestamps": True, "beam_size": 2, "language": "en"},
        {"clip_timestamps": "0.5,3,4,9", "batch_size": 2},
    ],
)
def test_each_is_what_it_is_alone(transcriber: Transcriber, options: dict[str, Any]) -> None:
    options = {"temperature": 0.0, **options}
    result = transcriber.transcribe(DIALOGUE, channel="each", **options)
    alone = [
        (label, transcriber.transcribe(DIALOGUE, channel=label, **options))
        for label in ("left", "right")
    ]
    expected = [segment.to_dict() for segment in merged(*alone)]
    assert [segment.to_dict() for segment in result.segments] == but_for_rounding(expected)
    assert "speaker" not in alone[0][1].to_dict()["segments"][0]
    assert {segment.speaker for segment in result.segments} == {"left", "right"}
    assert result.text == "".join(segment.text for segment in result.segments)
    assert (result.language, result.duration) == ("en", len(DIALOGUE) / SAMPLE_RATE)


def test_labels_of_one_and_many_channels(transcriber: Transcriber) -> None:
    weather, message = SOUND["weather"], SOUND["message"]
    assert spoken(transcriber.transcribe(weather, channel="each")) == [("channel 0", WEATHER)]
    three = channels(np.zeros(1, np.float32), weather, np.zeros(1, np.float32), message)
    result = transcriber.transcribe(three, channel="each")
    assert sorted(spoken(result)) == [("channel 1", WEATHER), ("channel 3", MESSAGE)]
    assert result.to_dict()["segments"][0]["speaker"] == result.segments[0].speaker


class TestSilence:
    def test_one_channel(self, transcriber: Transcriber) -> None:
        """Where there is no sound nothing is decoded, as models make something up."""
        silent = channels(SOUND["weather"], np.zeros(1, np.float32))
        stream = transcriber.segments(silent, channel="each")
        assert stream.n_frames == len(SOUND["weather"]) // 160
        assert spoken(transcriber.transcribe(silent, channel="each")) == [("left", WEATHER)]

    @pytest.mark.parametrize("shape", [(0,), (1,), (0, 2), (16000, 2)])
    def test_all_channels(self, transcriber: Transcriber, shape: tuple[int, ...]) -> None:
        samples = np.zeros(shape, np.float32)
        label = "left" if shape[1:] == (2,) else "channel 0"
        result = transcriber.transcribe(samples, channel="each", language="en")
        # As the mix, which is silent too.
        mix = transcriber.transcribe(samples, language="en")
        assert list(result.segments) == merged((label, mix))
        assert result.duration == shape[0] / SAMPLE_RATE


def test_segments_arrive_as_they_are_decoded(transcriber: Transcriber) -> None:
    long = channels(at(1.0, *["weather"] * 6), at(2.0, *["message"] * 6))
    stream = transcriber.segments(long, channel="each", temperature=0.0)
    seeks, found = [stream.seek], []
    for segment in stream:
        seeks.append(stream.seek)
        found.append(segment)
        assert stream.result().segments == tuple(found)
    assert seeks[0] == 0 < seeks[1] < stream.n_frames == 2 * (len(long) // 160)
    assert seeks == sorted(seeks)
    assert seeks[-1] <= stream.n_frames
    starts = [segment.start for segment in found]
    assert starts == sorted(starts)
    assert [segment.id for segment in found] == list(range(len(found)))
    assert sum(a.speaker != b.speaker for a, b in pairwise(found)) > 1


def test_warnings_are_given_once(transcriber: Transcriber) -> None:
    call = channels(SOUND["weather"], SOUND["message"])
    options = {"channel": "each", "language": "en", "task": "translate"}
    with pytest.warns(UserWarning, match=r"^word_timestamps: times of translated words") as caught:
        transcriber.segments(call, word_timestamps=True, **options)
    assert len(caught) == 1


def test_a_file_is_decoded_once(transcriber: Transcriber, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    decode_file = stream.decode_file

    def counting(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        return decode_file(*arguments, **options)

    monkeypatch.setattr(stream, "decode_file", counting)
    call = channels(SOUND["weather"], SOUND["message"])
    transcriber.transcribe(encode(call, SAMPLE_RATE, "FLAC"), channel="each", language="en")
    assert len(calls) == 1


@pytest.mark.parametrize("channel", ["both", -1, True, 1.5])
def test_channels_that_are_none(transcriber: Transcriber, channel: Any) -> None:
    with pytest.raises(OptionError, match=r"^channel: must be left, right, each, or a number"):
        transcriber.transcribe(DIALOGUE, channel=channel)


class Said:
    """A transcript with given segments: start, and tokens."""

    def __init__(
        self, language: str, certainty: float | None, *segments: tuple[float, list[int]]
    ) -> None:
        self.language, self.n_frames, self.seek = language, 1000, 0
        self.language_probability = certainty
        self.language_probs = None if certainty is None else {language: certainty, "xx": 0.01}
        self._segments = segments
        self.decode = small_tokenizer().decode

    def __iter__(self) -> Iterator[Segment]:
        for id, (start, tokens) in enumerate(self._segments):
            self.seek += 500
            text = self.decode(tokens)
            yield Segment(id, 0, start, start + 1, text, tuple(tokens), 0.0, -0.5, 1.0, 0.1)


def together(**each: Said) -> ChannelsTranscript:
    return ChannelsTranscript(cast(dict[str, Transcript], each))


class TestLanguages:
    def test_one(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = together(left=Said("de", 0.4), right=Said("de", 0.8))
            assert (found.language, found.language_probs) == ("de", {"de": 0.8, "xx": 0.01})
            assert found.language_probability == 0.8
            assert together(left=Said("de", None), right=Said("de", None)).language_probs is None

    def test_two(self) -> None:
        """The surest is that of the whole."""
        with pytest.warns(
            UserWarning, match=r"languages that they seem to be in \(left: en, right: ja\); if that"
        ):
            found = together(left=Said("en", 0.4), right=Said("ja", 0.9))
        assert found.language == "ja"


def test_a_character_that_continues_in_the_next_segment() -> None:
    tokens = small_tokenizer().encode("あ")
    assert len(tokens) > 1
    left = Said("en", None, (0.0, tokens[:1]), (1.0, tokens[1:]))
    found = together(left=left, right=Said("en", None, (2.0, tokens)))
    assert [segment.speaker for segment in found] == ["left", "left", "right"]
    assert found.text == "ああ"


RESULT: dict[str, Any] = {
    "text": "",
    "language": "en",
    "segments": [
        {"start": 0.0, "end": 1.0, "text": " Hello.", "speaker": "left"},
        {"start": 0.5, "end": 2.0, "text": " Hi there.", "speaker": "channel 1 <&>\n-->"},
        {"start": 2.0, "end": 3.0, "text": " Bye.", "speaker": None},
        {"start": 3.0, "end": 3.0, "text": "", "speaker": "left"},
    ],
}


def rendered(extension: str) -> str:
    return RENDERERS[extension](RESULT, LineOptions())


class TestWritten:
    def test_text(self) -> None:
        lines = ["[left]: Hello.", "[channel 1 <&> ->]: Hi there.", "Bye.", ""]
        assert rendered("txt").split("\n") == [*lines, ""]
        assert [line.split("\t")[-1] for line in rendered("tsv").split("\n")[1:]] == [
            *lines,
            "",
        ]
        assert json.loads(rendered("json")) == RESULT

    def test_subtitles(self) -> None:
        assert rendered("srt") == (
            "1\n00:00:00,000 --> 00:00:01,000\n[left]: Hello.\n\n"
            "2\n00:00:00,500 --> 00:00:02,000\n[channel 1 <&> ->]: Hi there.\n\n"
            "3\n00:00:02,000 --> 00:00:03,000\nBye.\n\n"
        )
        assert rendered("vtt") == (
            "WEBVTT\n\n00:00.000 --> 00:01.000\n<v left>Hello.\n\n"
            "00:00.500 --> 00:02.000\n<v channel 1 &lt;&amp;&gt; -&gt;>Hi there.\n\n"
            "00:02.000 --> 00:03.000\nBye.\n\n"
        )

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"max_line_width": 40},
            {"max_line_width": 40, "max_line_count": 2},
            {"max_words_per_line": 3},
            {"max_line_width": 40, "max_line_count": 2, "highlight_words": True},
        ],
    )
    def test_no_cue_has_two_speakers(self, options: dict[str, Any]) -> None:
        said = [("left", "one two"), ("left", "three"), ("right", "UNO DOS"), ("left", "four")]
        segments = []
        for start, (speaker, text) in enumerate(said):
            words = [
                {"word": f" {word}", "start": start + i / 4, "end": start + (i + 1) / 4}
                for i, word in enumerate(text.split())
            ]
            segments.append(
                {"start": start, "end": start + 1, "text": text, "words": words, "speaker": speaker}
            )
        vtt = RENDERERS["vtt"]({"segments": segments}, LineOptions(**options))
        cues = vtt.split("\n\n")[1:-1]
        for cue in cues:
            text = cue.partition("\n")[2]
            assert text.startswith("<v right>" if "UNO" in text else "<v left>")
            assert text.count("<v ") == 1
            assert not ("UNO" in text and ("one" in text or "four" in text))
        if options.get("max_line_count") and not options.get("highlight_words"):
            # What follows of one speaker still flows together.
            assert any("two three" in cue for cue in cues)

    def test_cues_come_by_their_start(self) -> None:
        """Also where a segment, which began before another, is cut into several cues."""
        segments = []
        for speaker, start in (("left", 0.0), ("right", 0.5)):
            words = [{"word": f" {i}", "start": start + i, "end": start + i + 1} for i in range(4)]
            times = {"start": start, "end": start + 4}
            segments.append({**times, "text": "0 1 2 3", "words": words, "speaker": speaker})
        options = LineOptions(max_words_per_line=1)
        srt = RENDERERS["srt"]({"segments": segments}, options)
        starts = [line[:12] for line in srt.split("\n") if "-->" in line]
        assert len(starts) == 8
        assert starts == sorted(starts)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = channels(SOUND["weather"], SOUND["message"])
    (tmp_path / "call.wav").write_bytes(encode(call, SAMPLE_RATE, "WAV"))
    (tmp_path / "mono.wav").write_bytes(encode(SOUND["weather"], SAMPLE_RATE, "WAV"))

    def run(*arguments: str) -> int:
        files = [str(tmp_path / "call.wav"), str(tmp_path / "mono.wav")]
        fast = ["--language", "en", "--temperature_increment_on_fallback", "None"]
        chosen = ["--model", "demo", "-o", str(tmp_path)]
        return main(["transcribe", *files, *chosen, *fast, *arguments])

    assert run("--channel", "each") == 0
    assert "] [left]: " in capsys.readouterr().out
    segments = json.loads((tmp_path / "call.json").read_text())["segments"]
    assert {segment["speaker"] for segment in segments} == {"left", "right"}
    assert "<v right>" in (tmp_path / "call.vtt").read_text()
    assert "\n[right]: " in (tmp_path / "call.srt").read_text()

    assert run("--channel", "right", "--quiet") == 1
    assert "speaker" not in (tmp_path / "call.json").read_text()
    assert (tmp_path / "call.txt").read_text() == f"{MESSAGE}\n"
    assert "mono.wav: has 1 channel, numbered from 0; there is no channel right\n" in (
        capsys.readouterr().err
    )
    assert run("--channel", "middle") == 2
    assert "error: --channel: must be left, right, each, or a number" in capsys.readouterr().err
