"""Files that are damaged, files that lie about their length, and what is not audio at all."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from tests.support.audio_samples import encode, encode_with_av, with_data_length
from tests.support.signals import noise, tone
from whisper_npu.audio import load_audio, stream_audio
from whisper_npu.audio.decoders.reader import Reader
from whisper_npu.errors import AudioError, OptionError

RATE = 16000
NOISE = noise(RATE)
INT16 = np.round(NOISE * 32767).astype(np.int16)
EXPECTED = INT16 / np.float32(32768)


class TestLengths:
    """Headers that do not tell the truth about what follows."""

    WAV = encode(INT16, RATE, "WAV")

    @pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 0x7FFFFFFF, 10**9])
    @pytest.mark.parametrize("riff_length", [0, 36, 0xFFFFFFFF, None])
    def test_wav_that_was_never_closed(self, length: int, riff_length: int | None) -> None:
        result = load_audio(with_data_length(self.WAV, length, riff_length))
        np.testing.assert_array_equal(result, EXPECTED)

    def test_chunks_before_the_data(self) -> None:
        at = self.WAV.index(b"data")
        # A chunk of odd length is followed by a byte that does not count.
        wav = self.WAV[:at] + b"note\x03\0\0\0abc\0" + self.WAV[at:]
        for length in (0, 2 * RATE):
            result = load_audio(with_data_length(wav, length))
            np.testing.assert_array_equal(result, EXPECTED)

    def test_silence_that_was_never_closed(self) -> None:
        wav = encode(np.zeros(RATE, np.int16), RATE, "WAV")
        assert len(load_audio(with_data_length(wav, 0))) == RATE

    @pytest.mark.parametrize("length", [0, 2**64 - 1, 10**12])
    def test_rf64_that_was_never_closed(self, length: int) -> None:
        rf64 = encode(INT16, RATE, "RF64")
        at = rf64.index(b"ds64") + 16
        source = rf64[:at] + struct.pack("<Q", length) + rf64[at + 8 :]
        np.testing.assert_array_equal(load_audio(source), EXPECTED)

    @pytest.mark.parametrize("after", [b"", b"LIST\x04\0\0\0INFO", b"id3 \x03\0\0\0abc\0"])
    def test_no_samples(self, after: bytes) -> None:
        wav = encode(np.zeros(0, np.int16), RATE, "WAV") + after
        assert load_audio(wav).shape == (0,)
        assert load_audio(wav).dtype == np.float32
        assert list(stream_audio(wav)) == []

    def test_no_samples_in_an_array(self) -> None:
        assert load_audio(np.zeros(0, np.float32)).shape == (0,)
        assert load_audio(np.zeros((0, 2), np.int16)).shape == (0,)

    @pytest.mark.parametrize("rate", [RATE, 48000])
    def test_one_sample(self, rate: int) -> None:
        assert len(load_audio(encode(np.full(1, 0.5), rate, "WAV"))) <= 1

    def test_flac_of_unknown_length(self) -> None:
        flac = bytearray(encode(INT16, RATE, "FLAC"))
        flac[21] &= 0xF0
        flac[22:26] = bytes(4)
        np.testing.assert_array_equal(load_audio(bytes(flac)), EXPECTED)

    @pytest.mark.parametrize("part", [0.3, 0.5, 0.99])
    def test_truncated_flac(self, part: float) -> None:
        flac = encode(noise(10 * RATE), RATE, "FLAC")
        with pytest.warns(UserWarning, match=r"^bytes: .*its header promises 10\.0 s \(cut off"):
            seconds = len(load_audio(flac[: int(part * len(flac))])) / RATE
        assert 10 * part - 0.4 < seconds <= 10 * part

    def test_flac_that_ends_early_without_an_error(self) -> None:
        flac = bytearray(encode(INT16, RATE, "FLAC"))
        flac[22:26] = struct.pack(">I", 2 * RATE)
        with pytest.warns(UserWarning, match=r"^bytes: holds 1\.0 s of audio, .* promises 2\.0 s"):
            np.testing.assert_array_equal(load_audio(bytes(flac)), EXPECTED)

    def test_truncated_mp3(self) -> None:
        mp3 = encode(noise(10 * RATE), RATE, "MP3")
        for part in (0.5, 0.95):
            with pytest.warns(UserWarning, match=r"^bytes: holds \d\.\d s .* promises 10\.0 s"):
                seconds = len(load_audio(mp3[: int(part * len(mp3))])) / RATE
            assert seconds == pytest.approx(10 * part, abs=0.2)

    @pytest.mark.filterwarnings("error")
    def test_whole_files_are_not_called_short(self) -> None:
        for file_format in ("WAV", "FLAC", "OGG", "MP3", "AIFF"):
            load_audio(encode(noise(5 * RATE), RATE, file_format))


class TestBadSources:
    def fails(self, source: object, message: str, **options: int) -> None:
        with pytest.raises(AudioError) as caught:
            load_audio(source, **options)  # type: ignore[arg-type]
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_missing(self, tmp_path: Path) -> None:
        self.fails(tmp_path / "none.wav", f"{tmp_path}/none.wav: no such file; check the name")
        self.fails("a\0b", "a\\x00b: cannot be read (embedded null byte)")

    def test_folder(self, tmp_path: Path) -> None:
        self.fails(tmp_path, f"{tmp_path}: is a folder; give the audio files in it")

    def test_beyond_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        self.fails(tmp_path / "file" / "x.wav", "file/x.wav: cannot be read (Not a directory)")

    def test_empty(self, tmp_path: Path) -> None:
        (tmp_path / "empty.wav").touch()
        self.fails(tmp_path / "empty.wav", "empty.wav: is empty (0 bytes); give an audio file")
        self.fails(b"", "bytes: is empty")
        self.fails(io.BytesIO(), "file object: is empty")

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("file_format", ["WAV", "FLAC", "OGG", "MP3", "mp4", "webm"])
    def test_a_disk_that_fails(self, file_format: str) -> None:
        if file_format.islower():
            pytest.importorskip("av")
            codec = {"mp4": "aac", "webm": "libopus"}[file_format]
            content = encode_with_av(noise(10 * 48000), 48000, file_format, codec)
        else:
            content = encode(noise(10 * RATE), RATE, file_format)
        bad_sectors = range(len(content) // 3, len(content) // 2)

        class Failing(io.BytesIO):
            name = "disk.wav"

            def read(self, size: int | None = -1) -> bytes:
                if self.tell() in bad_sectors:
                    raise OSError(5, "Input/output error")
                return super().read(min(size, 1000) if size else size)

        self.fails(Failing(content), "disk.wav: cannot be read (Input/output error)")

    def test_a_pipe_that_fails(self) -> None:
        class Failing(io.RawIOBase):
            name = "pipe"

            def seekable(self) -> bool:
                return False

            def read(self, size: int = -1) -> bytes:
                raise OSError(5, "Input/output error")

        self.fails(Failing(), "pipe: cannot be read (Input/output error)")

    def test_an_interruption_gets_through(self) -> None:
        class Interrupted(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                if self.tell() > 50000:
                    raise KeyboardInterrupt
                return super().read(size)

        for file_format in ("WAV", "FLAC"):
            with pytest.raises(KeyboardInterrupt):
                load_audio(Interrupted(encode(noise(10 * RATE), RATE, file_format)))

    def test_a_place_before_the_start(self) -> None:
        """As a damaged header may ask for; libsndfile is told where the file is instead."""
        reader = Reader(io.BytesIO(b"RIFF"))
        reader.seek(2)
        assert reader.seek(-1) == 2

    def test_text(self, tmp_path: Path) -> None:
        pytest.importorskip("av")
        path = tmp_path / "text.wav"
        path.write_text("This is no audio.\n" * 100)
        self.fails(path, "text.wav: neither libsndfile (")
        self.fails(path, "can read it; give an audio file")
        with open(path) as file:
            self.fails(file, f"{path}: is open in text mode; open it in binary mode ('rb')")

    def test_without_pyav(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "av", None)
        self.fails(b"no audio" * 100, 'pip install "whisper-npu[av]"')
        assert len(load_audio(encode(NOISE, RATE, "WAV"))) == RATE

    def test_pyav_is_imported_only_when_needed(self) -> None:
        script = textwrap.dedent(
            """
            import io, sys, numpy, soundfile
            from whisper_npu.audio import load_audio
            file = io.BytesIO()
            soundfile.write(file, numpy.zeros(100), 8000, format="FLAC")
            load_audio(file)
            sys.exit("av" in sys.modules)
            """
        )
        subprocess.run([sys.executable, "-c", script], check=True)

    def test_video_without_sound(self) -> None:
        av = pytest.importorskip("av")
        file = io.BytesIO()
        with av.open(file, "w", format="matroska") as output:
            stream = output.add_stream("mjpeg", rate=5)
            stream.width = stream.height = 32
            stream.pix_fmt = "yuvj420p"
            frame = av.VideoFrame(32, 32, "yuvj420p")
            output.mux([*stream.encode(frame), *stream.encode(None)])
        self.fails(file.getvalue(), "bytes: holds no audio; give a file with an audio track")

    def test_playlists_open_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("av")
        monkeypatch.chdir(tmp_path)
        (tmp_path / "secret.mka").write_bytes(
            encode_with_av(tone(1.0, 48000), 48000, "matroska", "pcm_s16le")
        )
        for playlist in (
            "ffconcat version 1.0\nfile secret.mka\n",
            f"#EXTM3U\n#EXTINF:1\n{tmp_path}/secret.mka\n#EXT-X-ENDLIST\n",
        ):
            (tmp_path / "list.wav").write_text(playlist)
            self.fails(tmp_path / "list.wav", "list.wav: neither libsndfile (")

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_samples_that_are_not_finite(self, value: float) -> None:
        samples = NOISE.copy()
        samples[4000] = value
        message = "a sample at 0.250 s is not a finite number; repair the audio"
        self.fails(samples, f"array: {message}")
        for rate, seconds in ((RATE, "0.250"), (8000, "0.500")):
            wav = encode(samples, rate, "WAV", "FLOAT")
            self.fails(wav, f"bytes: {message}".replace("0.250", seconds))

    def test_the_time_of_a_sample_in_a_later_block(self) -> None:
        samples = NOISE.copy()
        samples[12000] = np.nan
        with pytest.raises(AudioError, match=r"array: a sample at 0\.750 s is not a finite number"):
            list(stream_audio(samples, block_seconds=0.1))

    @pytest.mark.filterwarnings("error")
    def test_samples_beyond_float32(self) -> None:
        self.fails(np.array([0.0, 1e300]), "array: a sample at 0.000 s is not a finite number")

    @pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint16, np.complex64, bool, "U1", "O"])
    def test_types_of_array(self, dtype: str) -> None:
        self.fails(np.zeros(4, dtype), "are not audio; use float32, float64, int16, int32 or uint8")

    @pytest.mark.parametrize("shape", [(), (2, 2, 2), (5, 0), (1, 0), (9, 48000)])
    def test_shapes_of_array(self, shape: tuple[int, ...]) -> None:
        self.fails(np.zeros(shape, np.float32), "is not audio; it must be [n] or [n, channels]")

    @pytest.mark.parametrize("source", [None, 7, ["a.wav"], {"path": "a.wav"}])
    def test_other_types(self, source: object) -> None:
        self.fails(source, f"cannot read audio from a {type(source).__name__}; give a path, bytes")

    @pytest.mark.parametrize("rate", [0, -1, 16000.5, "16000", True])
    def test_rates_that_are_none(self, rate: int) -> None:
        with pytest.raises(
            OptionError, match="sampling_rate must be a positive whole number of Hz"
        ):
            load_audio(NOISE, sampling_rate=rate)

    def test_a_rate_for_a_file(self) -> None:
        with pytest.raises(OptionError, match="sampling_rate is for arrays"):
            load_audio(encode(NOISE, RATE, "WAV"), sampling_rate=8000)
