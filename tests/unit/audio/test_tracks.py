"""Which of several audio tracks is decoded, and what is said of it."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest

from tests.support.audio_samples import encode, encode_tracks
from tests.support.signals import tone
from whisper_npu.audio import load_audio
from whisper_npu.errors import AudioError, OptionError
from whisper_npu.transcriber import Transcriber

RATE = 48000
PITCHES = (440, 880, 1320)


def several_tracks(default: int, languages: tuple[str, ...] = ("eng", "fra", "und")) -> bytes:
    """A Matroska file with a tone of another pitch in each track."""
    av = pytest.importorskip("av")
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        streams = [output.add_stream("pcm_s16le", rate=RATE, layout="mono") for _ in PITCHES]
        for number, (stream, language) in enumerate(zip(streams, languages, strict=True)):
            stream.metadata["language"] = language
            stream.disposition = av.stream.Disposition.default if number == default else 0
        streams[1].metadata["title"] = "Commentary"
        for stream, pitch in zip(streams, PITCHES, strict=True):
            samples = np.round(tone(2.0, RATE, pitch) * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate = RATE
            output.mux([*stream.encode(frame), *stream.encode(None)])
    return file.getvalue()


def pitch(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples[8000:24000] * np.hanning(16000)))
    return float(spectrum.argmax())


@pytest.mark.parametrize("default", [0, 1, 2])
def test_the_default_track_is_taken_and_named(default: int) -> None:
    file = several_tracks(default)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert pitch(load_audio(file)) == PITCHES[default]
    (warning,) = caught
    names = ("eng, pcm_s16le, mono", "fra, Commentary, pcm_s16le, mono", "pcm_s16le, mono")
    others = "; ".join(f"{i}: {name}" for i, name in enumerate(names) if i != default)
    assert str(warning.message) == (
        f"bytes: holds 3 audio tracks; the default one is taken, {default}: {names[default]}; "
        f"audio_track chooses another ({others})"
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("track", [0, 1, 2])
def test_a_track_that_is_chosen(track: int) -> None:
    assert pitch(load_audio(several_tracks(0), audio_track=track)) == PITCHES[track]


def test_a_track_that_is_not_there() -> None:
    with pytest.raises(AudioError, match=r"^bytes: holds 3 audio tracks, .* no audio_track 3$"):
        load_audio(several_tracks(0), audio_track=3)
    wav = encode(tone(0.1), 16000, "WAV")
    assert len(load_audio(wav, audio_track=0)) == 1600
    with pytest.raises(AudioError, match=r"^bytes: holds 1 audio track, .* no audio_track 1$"):
        load_audio(wav, audio_track=1)


def test_an_array_has_no_tracks() -> None:
    with pytest.raises(OptionError, match="audio_track is for files"):
        load_audio(tone(0.1), audio_track=0)


def test_the_option_gets_to_the_decoder() -> None:
    transcriber = Transcriber("demo", cpu_kernels=False)
    for channel in (None, "each"):
        with pytest.raises(AudioError, match="no audio_track 3"):
            transcriber.transcribe(several_tracks(0), audio_track=3, channel=channel)
    for value in (-1, 1.5, True, "0"):
        with pytest.raises(OptionError, match=r"^audio_track: must be 0 or more"):
            transcriber.transcribe(tone(0.1), audio_track=value)


@pytest.mark.parametrize(("container", "codec"), [("mp4", "aac"), ("asf", "wmav2")])
def test_a_shorter_track_is_not_called_damaged(container: str, codec: str) -> None:
    """The container is as long as its longest track."""
    pytest.importorskip("av")
    data = encode_tracks([tone(2.0, 44100), tone(10.0, 44100)], 44100, container, codec)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_audio(data, audio_track=0)) == pytest.approx(32000, abs=1600)
