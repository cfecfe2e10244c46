"""Telephone recordings without a header, which their names tell."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.support.audio_samples import encode
from tests.support.damaged_audio import speech
from tests.support.signals import tone
from whisper_npu.audio import load_audio
from whisper_npu.errors import AudioError

RATE = 16000


def raw(samples: np.ndarray, rate: int, subtype: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="RAW", subtype=subtype, endian="LITTLE")
    return file.getvalue()


@pytest.fixture(params=["with PyAV", "without PyAV"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "without PyAV":
        monkeypatch.setitem(sys.modules, "av", None)
    else:
        pytest.importorskip("av")
    return str(request.param)


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize(
    ("extension", "rate", "subtype"),
    [
        ("ul", 8000, "ULAW"),
        ("ULAW", 8000, "ULAW"),
        ("al", 8000, "ALAW"),
        ("alaw", 8000, "ALAW"),
        ("sln", 8000, "PCM_16"),
        ("sln16", 16000, "PCM_16"),
        ("sln44", 44100, "PCM_16"),
    ],
)
def test_samples(tmp_path: Path, extension: str, rate: int, subtype: str) -> None:
    samples = 0.5 * tone(3.0, rate)
    path = tmp_path / f"call.{extension}"
    path.write_bytes(raw(samples, rate, subtype))
    wav = load_audio(encode(samples, rate, "WAV", subtype))
    np.testing.assert_array_equal(load_audio(path), wav)
    # A file object is as good if it has a name.
    with open(path, "rb") as file:
        np.testing.assert_array_equal(load_audio(file), wav)


def test_what_only_ffmpeg_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    av = pytest.importorskip("av")
    samples, rate = speech()
    path = tmp_path / "call.g722"
    with av.open(str(path), "w", format="g722") as output:
        stream = output.add_stream("g722", rate=16000, layout="mono")
        resampler = av.AudioResampler(stream.format.name, "mono", 16000)
        frame = av.AudioFrame.from_ndarray(samples[None, : 3 * rate], format="fltp", layout="mono")
        frame.sample_rate = rate
        for each in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(each))
        output.mux(stream.encode(None))
    assert len(load_audio(path)) == pytest.approx(3 * RATE, abs=0.05 * RATE)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match=r'only FFmpeg reads g722 audio: pip install "whisper-npu'):
        load_audio(path)


@pytest.mark.usefixtures("decoder")
def test_contents_come_before_names(tmp_path: Path) -> None:
    path = tmp_path / "call.ul"
    path.write_bytes(encode(tone(1.0), RATE, "WAV"))
    assert len(load_audio(path)) == RATE


@pytest.mark.usefixtures("decoder")
def test_samples_that_look_like_frames_of_mp3(tmp_path: Path) -> None:
    path = tmp_path / "call.sln"
    content = encode(tone(2.0), RATE, "MP3")
    path.write_bytes(content)
    assert len(load_audio(path)) == pytest.approx(len(content), abs=4)


@pytest.mark.usefixtures("decoder")
def test_other_names(tmp_path: Path) -> None:
    for name in ("call", "call.raw", "ul"):
        (tmp_path / name).write_bytes(raw(0.5 * tone(1.0, 8000), 8000, "ULAW"))
        with pytest.raises(AudioError, match="read it"):
            load_audio(tmp_path / name)
