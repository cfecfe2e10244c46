"""Mixing of several channels to one: as FFmpeg's own resampler does, for each of its layouts."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from tests.support.audio_samples import encode
from tests.support.signals import noise, tone
from whisper_npu.audio import load_audio
from whisper_npu.audio.downmix import mix_to_mono
from whisper_npu.audio.layouts import _LAYOUTS, channel_names, layout_of
from whisper_npu.ops.arrays import F32

RATE = 16000


def of_ffmpeg(samples: F32, layout: str, sample_format: str) -> F32:  # [n, channels] -> [n]
    """Mixed by libswresample. To 16-bit samples it normalises, to floats it does not."""
    av = pytest.importorskip("av")
    resampler = av.AudioResampler(format=sample_format, layout="mono", rate=RATE)
    if sample_format == "s16":
        samples = np.round(samples * 32768).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format=sample_format, layout=layout)
    frame.sample_rate = RATE
    mixed = [
        part.to_ndarray()[0] for part in (*resampler.resample(frame), *resampler.resample(None))
    ]
    return np.concatenate(mixed) / (32768 if sample_format == "s16" else 1)


class TestFFmpegs:
    @pytest.mark.parametrize("layout", _LAYOUTS)
    def test_layouts(self, layout: str) -> None:
        av = pytest.importorskip("av")
        names = tuple(channel.name for channel in av.AudioLayout(layout).channels)
        assert channel_names(layout, len(names)) == names
        samples = noise(1000 * len(names)).reshape(1000, -1)
        mixed = mix_to_mono(samples, layout)
        # Above full scale in floats: the same but for one factor.
        in_floats = of_ffmpeg(samples, layout, "flt")
        scale = np.dot(mixed, in_floats) / np.dot(mixed, mixed)
        np.testing.assert_allclose(mixed * scale, in_floats, rtol=0, atol=1e-6)
        # What openai-whisper has of FFmpeg is 16-bit samples: the same, but for their steps.
        np.testing.assert_allclose(mixed, of_ffmpeg(samples, layout, "s16"), rtol=0, atol=2**-14)

    @pytest.mark.parametrize("n", range(3, 9))
    def test_what_a_number_of_channels_is_taken_for(self, n: int) -> None:
        av = pytest.importorskip("av")
        names = tuple(channel.name for channel in av.AudioLayout(f"{n}c").channels)
        for unknown in (None, f"{n} channels", "nonsense"):
            assert channel_names(unknown, n) == names
        samples = noise(100 * n).reshape(100, n)
        expected = mix_to_mono(samples, "+".join(names))
        np.testing.assert_array_equal(load_audio(samples), expected)

    def test_layouts_without_a_name(self) -> None:
        av = pytest.importorskip("av")
        name = av.AudioLayout("FL+FC+FR").name
        assert channel_names(name, 3) == ("FL", "FC", "FR")
        samples = noise(300).reshape(100, 3)
        expected = mix_to_mono(samples[:, [0, 2, 1]], "3.0")
        np.testing.assert_allclose(mix_to_mono(samples, name), expected, rtol=0, atol=1e-7)

    @pytest.mark.parametrize("channels", range(3, 9))
    @pytest.mark.parametrize(
        ("file_format", "subtype"),
        [("FLAC", "PCM_16"), ("WAVEX", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS")],
    )
    def test_files_have_the_layouts_that_ffmpeg_sees(
        self, file_format: str, subtype: str, channels: int
    ) -> None:
        av = pytest.importorskip("av")
        content = encode(np.zeros((4800, channels)), 48000, file_format, subtype)
        with soundfile.SoundFile(io.BytesIO(content)) as decoder:
            ours, order = layout_of(decoder)
        with av.open(io.BytesIO(content)) as container:
            theirs = channel_names(container.streams.audio[0].layout.name, channels)
        assert channel_names(ours, channels) == theirs
        # Vorbis and Opus have the centre before the right, and the low frequencies last.
        assert (order is None) == (file_format != "OGG" or channels == 4)

    def test_surround_of_a_film(self) -> None:
        """Speech in the centre is heard above the other channels, as FFmpeg mixes them."""
        av = pytest.importorskip("av")
        samples = 0.3 * noise(2 * RATE * 18).reshape(-1, 6)
        samples[:, 2] = tone(6.0)
        content = io.BytesIO()
        with av.open(content, "w", format="ac3") as output:
            stream = output.add_stream("ac3", rate=48000, bit_rate=448000)
            stream.layout = "5.1(side)"
            planes = np.ascontiguousarray(samples.T)
            frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout="5.1(side)")
            frame.sample_rate = 48000
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                output.mux(packet)
        result = load_audio(content.getvalue())
        content.seek(0)
        resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
        with av.open(content) as container:
            frames = [*container.decode(audio=0), None]
            parts = [part.to_ndarray()[0] for each in frames for part in resampler.resample(each)]
        expected = np.concatenate(parts) / np.float32(32768)
        assert abs(len(result) - len(expected)) <= 1
        n = min(len(result), len(expected))
        error = result[:n] - expected[:n]
        assert np.sqrt(np.mean(error**2)) < 0.02 * np.sqrt(np.mean(expected**2))


@pytest.mark.parametrize(("file_format", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS")])
@pytest.mark.parametrize(
    ("channel", "of_ffmpeg", "weight"),
    [(0, 0, 0.5**0.5), (1, 2, 1), (2, 1, 0.5**0.5), (3, 4, 0.5), (4, 5, 0.5), (5, 3, 0)],
)
def test_channels_of_vorbis(
    file_format: str, subtype: str, channel: int, of_ffmpeg: int, weight: float
) -> None:
    """Of six the second is the centre and the last that of low frequencies; FFmpeg sorts them."""
    samples = np.zeros((RATE, 6), np.float32)
    samples[:, channel] = tone(1.0) if weight else tone(1.0, RATE, 60.0)
    content = encode(samples, RATE, file_format, subtype)

    def level(channel: int | None = None) -> float:
        return float(np.sqrt(np.mean(load_audio(content, channel=channel) ** 2)))

    levels = [level(i) for i in range(6)]
    assert int(np.argmax(levels)) == of_ffmpeg
    total = 2 * 0.5**0.5 + 1 + 2 * 0.5
    assert level() == pytest.approx(weight / total * levels[of_ffmpeg], abs=0.02 * max(levels))


def test_one_two_and_many_channels_are_averaged() -> None:
    samples = noise(1200).reshape(100, 12)
    for n, layout in ((1, "mono"), (2, "stereo"), (2, "FC+LFE"), (12, None), (3, "TC+TBC+LFE")):
        mixed = mix_to_mono(samples[:, :n], layout)
        np.testing.assert_allclose(mixed, samples[:, :n].mean(axis=1), rtol=0, atol=1e-7)


def test_nothing_is_louder_than_full_scale() -> None:
    for layout, names in _LAYOUTS.items():
        loud = np.ones((2, names.count("+") + 1), np.float32)
        assert mix_to_mono(loud, layout).max() == pytest.approx(1, abs=1e-6)
