"""Every kind of source decodes to the same samples, and what is not audio is named."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.support.audio_samples import encode, encode_with_av
from tests.support.signals import noise, tone
from whisper_npu import audio
from whisper_npu.audio import AudioSource, load_audio, stream_audio
from whisper_npu.audio.blocks import DecodedBlock
from whisper_npu.audio.decoders import ffmpeg, recording
from whisper_npu.audio.decoders.account import Account
from whisper_npu.audio.decoders.libsndfile import SequentialFile
from whisper_npu.audio.decoders.packets import Packets

RATE = 16000
NOISE = noise(RATE)


def int16(samples: np.ndarray) -> np.ndarray:
    return np.round(samples * 32767).astype(np.int16)


@pytest.mark.parametrize(
    ("file_format", "subtype", "step"),
    [
        ("WAV", "PCM_U8", 2**-7),
        ("WAV", "PCM_16", 2**-15),
        ("WAV", "PCM_24", 2**-23),
        ("WAV", "PCM_32", 2**-24),
        ("WAV", "FLOAT", 0),
        ("WAV", "DOUBLE", 0),
        ("WAVEX", "PCM_24", 2**-23),
        ("RF64", "PCM_16", 2**-15),
        ("FLAC", "PCM_16", 2**-15),
        ("FLAC", "PCM_24", 2**-23),
        ("AIFF", "PCM_16", 2**-15),
    ],
)
def test_lossless_formats(file_format: str, subtype: str, step: float) -> None:
    result = load_audio(encode(NOISE, RATE, file_format, subtype))
    assert result.dtype == np.float32
    # The writer scales by one step less than full scale, and rounds.
    np.testing.assert_allclose(result, NOISE, rtol=0, atol=2 * step)


@pytest.mark.parametrize(
    ("file_format", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")]
)
def test_lossy_formats(file_format: str, subtype: str) -> None:
    samples = tone(1.0)
    result = load_audio(encode(samples, RATE, file_format, subtype))
    assert len(result) == pytest.approx(RATE, abs=RATE * 0.1)
    # A tone of the same pitch and loudness, a little before or after.
    spectrum = np.abs(np.fft.rfft(result[2000:10000] * np.hanning(8000)))
    assert spectrum.argmax() == 220
    assert spectrum.max() == pytest.approx(1000, rel=0.1)


@pytest.mark.parametrize(
    ("container", "codec"), [("mp4", "aac"), ("webm", "libopus"), ("matroska", "pcm_s16le")]
)
def test_formats_of_ffmpeg(container: str, codec: str) -> None:
    pytest.importorskip("av")
    source = encode_with_av(tone(2.0, 48000), 48000, container, codec)
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.info(io.BytesIO(source))
    result = load_audio(source)
    assert len(result) == pytest.approx(2 * RATE, abs=RATE * 0.1)
    spectrum = np.abs(np.fft.rfft(result[8000:16000] * np.hanning(8000)))
    assert spectrum.argmax() == 220
    assert spectrum.max() == pytest.approx(1000, rel=0.1)


class TestSources:
    """One file, given in every way."""

    EXPECTED = int16(NOISE) / np.float32(32768)

    @pytest.fixture
    def wav(self, tmp_path: Path) -> Path:
        path = tmp_path / "ünïcode näme.wav"
        path.write_bytes(encode(int16(NOISE), RATE, "WAV"))
        return path

    def check(self, source: AudioSource) -> None:
        np.testing.assert_array_equal(load_audio(source), self.EXPECTED)

    def test_path(self, wav: Path) -> None:
        self.check(wav)
        self.check(str(wav))

    def test_the_name_does_not_matter(self, wav: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(wav.parent)
        for name in ("x.raw", "x.mp3", "x", "--x.wav", "concat:x"):
            self.check(wav.rename(wav.with_name(name)).name)
            wav = wav.with_name(name)

    def test_bytes(self, wav: Path) -> None:
        self.check(wav.read_bytes())

    def test_file_objects(self, wav: Path) -> None:
        with open(wav, "rb") as file:
            self.check(file)
            assert not file.closed
        with tempfile.SpooledTemporaryFile() as spooled:
            spooled.write(wav.read_bytes())
            self.check(spooled)  # type: ignore[arg-type]

    def test_pipe(self, wav: Path, tmp_path: Path) -> None:
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        writer = threading.Thread(target=lambda: fifo.write_bytes(wav.read_bytes()))
        writer.start()
        self.check(str(fifo))
        writer.join()

    @pytest.mark.parametrize("piped", [True, False])
    def test_stdin(self, wav: Path, piped: bool) -> None:
        script = textwrap.dedent(
            """
            import sys
            from whisper_npu.audio import load_audio
            sys.stdout.buffer.write(load_audio("-").tobytes())
            """
        )
        with open(wav, "rb") as file:
            source = {"input": file.read()} if piped else {"stdin": file}
            done = subprocess.run(
                [sys.executable, "-c", script], **source, capture_output=True, check=True
            )
        np.testing.assert_array_equal(np.frombuffer(done.stdout, np.float32), self.EXPECTED)

    def test_arrays(self) -> None:
        self.check(int16(NOISE))
        self.check(int16(NOISE).astype(">i2"))
        self.check(int16(NOISE).astype(np.int32) << 16)
        self.check(self.EXPECTED)
        self.check(self.EXPECTED.astype(np.float64))
        self.check(self.EXPECTED[:, None])
        np.testing.assert_array_equal(
            load_audio(np.array([0, 128, 192], np.uint8)), np.array([-1, 0, 0.5], np.float32)
        )
        np.testing.assert_array_equal(
            load_audio(np.array([0.5, -0.25], np.float16)), np.array([0.5, -0.25], np.float32)
        )


class TestRatesAndChannels:
    @pytest.mark.parametrize("channels", [1, 2, 9])
    def test_channels_are_averaged(self, channels: int) -> None:
        samples = noise(RATE * channels).reshape(RATE, channels)
        expected = samples.mean(axis=1)
        np.testing.assert_allclose(load_audio(samples), expected, rtol=0, atol=1e-7)
        wav = encode(samples, RATE, "WAV", "FLOAT")
        np.testing.assert_allclose(load_audio(wav), expected, rtol=0, atol=1e-7)

    @pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000, 192000])
    def test_rates(self, rate: int) -> None:
        result = load_audio(encode(tone(1.0, rate), rate, "WAV", "FLOAT"))
        assert abs(len(result) - RATE) <= 1
        np.testing.assert_allclose(
            result[1000:-1000], tone(1.0)[1000 : len(result) - 1000], 0, 1e-4
        )

    def test_the_rate_of_an_array(self) -> None:
        result = load_audio(tone(1.0, 48000), sampling_rate=48000)
        np.testing.assert_allclose(result[1000:-1000], tone(1.0)[1000:-1000], rtol=0, atol=1e-4)

    def test_what_16_khz_cannot_hold_is_removed(self) -> None:
        result = load_audio(encode(tone(1.0, 48000, 12000), 48000, "WAV", "FLOAT"))
        assert np.abs(result[1000:-1000]).max() < 1e-4

    def test_eight_channels_at_96_khz(self) -> None:
        levels = np.arange(1, 9, dtype=np.float32) / 8
        wav = encode(tone(1.0, 96000)[:, None] * levels, 96000, "WAV", "PCM_24")
        # The centre and the surrounds as in 7.1, where the fourth channel is not heard.
        weights = np.array([0.5**0.5, 0.5**0.5, 1, 0, 0.5, 0.5, 0.5, 0.5])
        expected = tone(1.0) * (levels @ weights / weights.sum())
        np.testing.assert_allclose(load_audio(wav)[1000:-1000], expected[1000:-1000], 0, 1e-4)

    @pytest.mark.parametrize("block_seconds", [0.001, 0.1003, 7.0])
    def test_blocks_make_no_difference(self, block_seconds: float) -> None:
        wav = encode(noise(80000).reshape(-1, 2), 44100, "WAV", "FLOAT")
        blocks = list(stream_audio(wav, block_seconds=block_seconds))
        assert len(blocks) > 5 or block_seconds > 1
        assert all(len(block) for block in blocks)
        np.testing.assert_allclose(np.concatenate(blocks), load_audio(wav), rtol=0, atol=1e-6)
        blocks = list(stream_audio(NOISE, block_seconds=block_seconds))
        np.testing.assert_array_equal(np.concatenate(blocks), NOISE)


def test_frames_of_different_rates_and_of_nothing() -> None:
    pytest.importorskip("av")

    def frame(rate: int, samples: list[int], planar: bool) -> types.SimpleNamespace:
        array = np.array(samples, np.int16).reshape((2, -1) if planar else (1, -1))
        return types.SimpleNamespace(
            sample_rate=rate,
            samples=array.size // 2,
            time=None,
            planes=list(array),
            format=types.SimpleNamespace(is_planar=planar, name="s16p" if planar else "s16"),
            layout=types.SimpleNamespace(name="stereo", nb_channels=2),
        )

    frames = [
        frame(8000, [16384, 0, 8192, 0], False),
        frame(8000, [], False),
        frame(8000, [16384, 16384, 0, 8192], True),
        frame(16000, [32767, 32767], False),
    ]
    packets = [
        types.SimpleNamespace(
            decode=lambda frame=frame: [frame], pts=None, duration=None, pos=None, size=1
        )
        for frame in frames
    ]
    container = types.SimpleNamespace(
        demux=lambda stream: iter(packets), format=types.SimpleNamespace(name="test")
    )
    context = types.SimpleNamespace(name="pcm_s16le")
    stream = types.SimpleNamespace(codec_context=context, time_base=None)
    account = Account("x")
    blocks = [
        (block.rate, block.layout, block.samples.tolist())
        for block in ffmpeg._gathered(Packets(container, stream, account).blocks(), 30.0)
    ]
    assert blocks == [
        (8000, "stereo", [[0.5, 0.0], [0.25, 0.0], [0.5, 0.0], [0.5, 0.25]]),
        (16000, "stereo", [[32767 / 32768, 32767 / 32768]]),
    ]
    assert account.decoded == 4 / 8000 + 1 / 16000


def test_an_absurd_header_does_not_take_absurd_memory() -> None:
    # 1024 channels at 768 kHz: 30 s of it would be 94 GB.
    header = struct.pack("<HHIIHH", 1, 1024, 768_000, 2048 * 768_000, 2048, 16)
    wav = b"RIFF\xff\xff\xff\xffWAVEfmt " + struct.pack("<I", 16) + header
    wav += b"data" + struct.pack("<I", 2048 * 100) + bytes(2048 * 100)
    sizes = []

    class Recording(SequentialFile):
        def read_block(self, size: int) -> tuple[DecodedBlock, str | None]:
            sizes.append(size * self.channels)
            return super().read_block(size)

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(recording, "SequentialFile", Recording)
        assert len(load_audio(wav)) <= 2
    assert max(sizes) <= 2**20


def test_memory_of_a_long_file(tmp_path: Path) -> None:
    """Twenty minutes at 44.1 kHz stereo are streamed in what ten seconds take."""
    pytest.importorskip("resource")
    script = textwrap.dedent(
        """
        import resource, sys
        from whisper_npu.audio import stream_audio
        print(sum(len(block) for block in stream_audio(sys.argv[1])))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        """
    )
    peaks = []
    for name, seconds in (("short", 10), ("long", 1200)):
        path = tmp_path / f"{name}.flac"
        with soundfile.SoundFile(path, "w", 44100, 2) as file:
            for _ in range(seconds // 10):
                file.write(np.zeros((441000, 2), np.int16))
        done = subprocess.run(
            [sys.executable, "-c", script, path], capture_output=True, check=True, text=True
        )
        n_samples, peak = map(int, done.stdout.split())
        assert n_samples == seconds * RATE
        peaks.append(peak)
    # In KiB; the samples alone are 75 MiB.
    assert peaks[1] - peaks[0] < 16 * 1024


def test_constants_are_openai_whispers() -> None:
    names = {name: getattr(audio, name) for name in audio.__all__ if name.isupper()}
    assert types.SimpleNamespace(**names) == types.SimpleNamespace(
        SAMPLE_RATE=16000,
        N_FFT=400,
        HOP_LENGTH=160,
        CHUNK_LENGTH=30,
        N_SAMPLES=480000,
        N_FRAMES=3000,
        N_SAMPLES_PER_TOKEN=320,
        FRAMES_PER_SECOND=100,
        TOKENS_PER_SECOND=50,
    )
