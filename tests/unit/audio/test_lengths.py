"""Lengths that headers cannot tell, or tell wrongly, and recordings that were joined."""

from __future__ import annotations

import io
import struct
import sys
import time
import warnings
from contextlib import suppress

import numpy as np
import pytest

from tests.support.audio_samples import encode, encode_tracks, encode_with_av, with_data_length
from tests.support.damaged_audio import encoded
from tests.support.signals import noise, tone
from whisper_npu.audio import load_audio, stream_audio
from whisper_npu.audio.decoders import recording
from whisper_npu.audio.decoders.containers import boxes, parts_of
from whisper_npu.audio.decoders.containers.mpeg_frames import Run, _frame, inspect
from whisper_npu.audio.decoders.libsndfile import SequentialFile
from whisper_npu.audio.decoders.reader import Reader
from whisper_npu.errors import AudioError

RATE = 16000
INT16 = np.round(noise(2 * RATE) * 32767).astype(np.int16)
EXPECTED = INT16 / np.float32(32768)
WAV = encode(INT16, RATE, "WAV")
LIMIT = 2**32


class Streamed(io.RawIOBase):
    """A WAV file that was streamed: a header, silence of any length, and the last samples."""

    def __init__(self, header: bytes, silence: int, end: bytes) -> None:
        self._header, self._silence, self._end = header, silence, end
        self._at = 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        size = len(self._header) + self._silence + len(self._end)
        self._at = offset + (0, self._at, size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        at, header, end = self._at, self._header, len(self._header) + self._silence
        if at < len(header):
            data = header[at : at + size]
        elif at < end:
            data = bytes(min(size, end - at))
        else:
            data = self._end[at - end : at - end + size]
        self._at += len(data)
        return data


class TestAbove4GiB:
    END = np.round(noise(1000) * 32767).astype("<i2").tobytes()

    @pytest.mark.parametrize("told", [0, 0xFFFFFFFF, 36, 0xFFFFFFFF - 36])
    @pytest.mark.parametrize("size", [LIMIT - 2000, LIMIT + 2 * 10**8])
    def test_all_of_it_is_there(self, told: int, size: int) -> None:
        header = with_data_length(WAV[:44], told, told)
        file = Streamed(header, size - len(self.END), self.END)
        (part,) = parts_of(Reader(file))
        with SequentialFile(part.reader) as decoder:
            assert decoder.frames == size // 2
            decoder.seek(decoder.frames - 1000)
            block, error = decoder.read_block(2000)
        assert error is None
        expected = np.frombuffer(self.END, "<i2") / np.float32(32768)
        np.testing.assert_array_equal(block.samples[:, 0], expected)

    @pytest.mark.long
    def test_it_is_decoded(self) -> None:
        """4.7 GB of 16 kHz mono with a length of 0xFFFFFFFF: 40 hours."""
        size = 4_700_000_000
        header = with_data_length(WAV[:44], 0xFFFFFFFF, 0xFFFFFFFF)
        file = Streamed(header, size - len(self.END), self.END)
        n = 0
        for block in stream_audio(file, block_seconds=600):
            n += len(block)
        assert n == size // 2
        expected = np.frombuffer(self.END, "<i2") / np.float32(32768)
        np.testing.assert_array_equal(block[-1000:], expected)


class TestWav:
    def test_a_length_that_is_too_small(self) -> None:
        with pytest.warns(UserWarning, match=r"its header tells 0\.5 s of the 2\.0 s of audio"):
            np.testing.assert_array_equal(load_audio(with_data_length(WAV, RATE)), EXPECTED)

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("unpadded", [False, True])
    def test_chunks_after_the_audio_are_none(self, unpadded: bool) -> None:
        after = b"LIST" + struct.pack("<I", 50001) + bytes(50001) + b"\0" * (not unpadded)
        np.testing.assert_array_equal(load_audio(WAV + after), EXPECTED)
        np.testing.assert_array_equal(load_audio(WAV + b"TAG" + bytes(125)), EXPECTED)
        np.testing.assert_array_equal(load_audio(WAV + b"ID3\x04" + bytes(9000)), EXPECTED)

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("file_format", ["WAV", "RF64", "AIFF", "FLAC"])
    def test_a_tag_before_it(self, file_format: str) -> None:
        tag = b"ID3\x03\0\0\0\0\x7f\x7f" + bytes(0x3FFF)
        np.testing.assert_array_equal(load_audio(tag + encode(INT16, RATE, file_format)), EXPECTED)

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("padding", [b"", b"\0"])
    def test_an_odd_length(self, padding: bytes) -> None:
        """Some programs leave out the byte that pads the audio."""
        samples = np.full(RATE + 1, 0.25)
        wav = encode(samples, RATE, "WAV", "PCM_U8")[: 44 + RATE + 1]
        after = b"LIST" + struct.pack("<I", 5000) + bytes(5000)
        np.testing.assert_array_equal(load_audio(wav + padding + after), samples)

    def test_a_cut_file_is_told(self) -> None:
        with pytest.warns(UserWarning, match=r"holds 1\.0 s of audio, .* promises 2\.0 s"):
            np.testing.assert_array_equal(load_audio(WAV[: 44 + 2 * RATE]), EXPECTED[:RATE])

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("length", [0x7FFFF000, 0xFFFFFFFF, 0])
    def test_a_length_that_was_left_open_is_no_promise(self, length: int) -> None:
        np.testing.assert_array_equal(load_audio(with_data_length(WAV, length)), EXPECTED)

    @pytest.mark.filterwarnings("error")
    def test_joined(self) -> None:
        rf64 = encode(INT16[:RATE], RATE, "RF64")
        for first, second in ((WAV, rf64), (rf64, WAV), (WAV, WAV)):
            both = load_audio(first + second)
            np.testing.assert_array_equal(
                both, np.concatenate([load_audio(first), load_audio(second)])
            )

    def test_a_header_that_is_damaged(self) -> None:
        for at in (4, 8, 16, 20, 24, 40):
            damaged = bytearray(WAV)
            damaged[at : at + 4] = b"\xf1\x8e\x02\x91"
            with warnings.catch_warnings(), suppress(AudioError):
                warnings.simplefilter("ignore")
                load_audio(bytes(damaged))


class TestMp3:
    @staticmethod
    def pieces(*rates: int) -> list[bytes]:
        return [encode(tone(3.0, rate), rate, "MP3") for rate in rates]

    @pytest.mark.filterwarnings("error")
    def test_joined_at_other_rates(self) -> None:
        samples = load_audio(b"".join(self.pieces(44100, 22050, 48000)))
        assert len(samples) / RATE == pytest.approx(9, abs=0.3)
        for second in (1, 4, 7):
            part = samples[second * RATE : (second + 1) * RATE]
            assert np.abs(np.fft.rfft(part)).argmax() == 440

    @pytest.mark.filterwarnings("error")
    def test_joined_at_the_same_rate(self) -> None:
        """Each is decoded as it is alone; between them is what players play of a header."""
        (first,) = self.pieces(RATE)
        second = encode(noise(3 * RATE), RATE, "MP3")
        both, alone = load_audio(first + second), load_audio(second)
        np.testing.assert_array_equal(both[: 3 * RATE], load_audio(first))
        np.testing.assert_array_equal(both[-len(alone) :], alone)
        assert 6 < len(both) / RATE < 6.2

    @pytest.mark.filterwarnings("error")
    def test_without_an_encoders_header(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """mpg123 guesses the length by the first frames, which are larger than the others here."""
        # FFmpeg would go on.
        monkeypatch.setitem(sys.modules, "av", None)
        samples = np.concatenate([noise(RATE), np.zeros(10 * RATE)])
        mp3 = encode(samples, RATE, "MP3")
        first = mp3.index(b"\xff\xf3", 4)
        assert b"Info" in mp3[:first] or b"Xing" in mp3[:first]
        assert len(load_audio(mp3[first:])) / RATE == pytest.approx(11, abs=0.1)

    @pytest.mark.filterwarnings("error")
    def test_tags_within_it(self) -> None:
        """As streams have them that tell what is played: the frames are of one recording."""
        mp3 = encode(noise(4 * RATE), RATE, "MP3")
        (run,) = inspect(Reader(io.BytesIO(mp3)))
        assert isinstance(run, Run)
        whole = load_audio(mp3)
        at = run.start
        for _ in range(60):
            frame = _frame(mp3[at : at + 3])
            assert frame is not None
            at += frame.length
        for tag in (b"ID3\x04\0\0\0\0\0\x0a" + bytes(10), b"TAG" + bytes(125)):
            tagged = mp3[:at] + tag + mp3[at:]
            (run,) = inspect(Reader(io.BytesIO(tagged)))
            samples = load_audio(tagged)
            assert len(samples) == len(whole)
            assert np.corrcoef(samples, whole)[0, 1] > 0.95

    @pytest.mark.filterwarnings("error")
    def test_tags_around_it(self) -> None:
        (mp3,) = self.pieces(RATE)
        whole = load_audio(mp3)
        big = b"ID3\x03\0\0" + bytes([0, 6, 0, 0]) + bytes(6 << 14)
        ape = b"APETAGEX" + struct.pack("<IIII8x", 2000, 32, 0, 0x80000000)
        for file in (big + mp3, mp3 + b"TAG" + bytes(125), mp3 + ape, mp3 + bytes(500)):
            np.testing.assert_array_equal(load_audio(file), whole)

    @pytest.mark.parametrize("header", [False, True])
    @pytest.mark.parametrize("filling", [0x00, 0x5A])
    def test_an_end_that_was_overwritten(self, filling: int, header: bool) -> None:
        mp3 = encode(noise(4 * RATE), RATE, "MP3")
        first = _frame(mp3[:3])
        assert first is not None
        mp3 = mp3 if header else mp3[first.length :]
        half = len(mp3) // 2
        told = "its header promises 4" if header else r"its last \d+ bytes, about 2\.\d s, are no"
        with pytest.warns(UserWarning, match=told):
            samples = load_audio(mp3[:half] + bytes([filling]) * half)
        assert len(samples) == pytest.approx(2 * RATE, abs=2000)

    def test_other_formats_hold_such_bytes(self) -> None:
        """Samples of a WAV file that look like headers of frames."""
        (mp3,) = self.pieces(RATE)
        samples = INT16.copy()
        samples[1000:3000] = np.frombuffer(mp3[:4000], np.int16)
        np.testing.assert_array_equal(
            load_audio(encode(samples, RATE, "WAV")), samples / np.float32(32768)
        )


@pytest.mark.filterwarnings("error")
def test_flac_with_a_tag_after_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    # FFmpeg is not asked: it would decode all of the file again.
    monkeypatch.delattr(recording, "decode_with_ffmpeg")
    flac = encode(INT16, RATE, "FLAC")
    for after in (b"TAG" + bytes(125), b"APETAGEX" + bytes(100)):
        np.testing.assert_array_equal(load_audio(flac + after), EXPECTED)


@pytest.mark.filterwarnings("error")
def test_flac_whose_header_tells_too_little() -> None:
    flac = bytearray(encode(INT16, RATE, "FLAC"))
    flac[22:26] = struct.pack(">I", RATE)
    np.testing.assert_array_equal(load_audio(bytes(flac)), EXPECTED)


@pytest.mark.parametrize(("file_format", "name"), [("AIFF", b"SSND"), ("CAF", b"data")])
def test_chunks_of_audio_that_are_longer_than_told(file_format: str, name: bytes) -> None:
    file = bytearray(encode(INT16, RATE, file_format))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = load_audio(bytes(file))
        # A chunk after the audio is none.
        after = b"ABCD" + bytes(3 if file_format == "AIFF" else 7) + b"\x80" + bytes(128)
        np.testing.assert_array_equal(load_audio(bytes(file) + 50 * after), expected)
    at = file.index(name) + (4 if file_format == "AIFF" else 8)
    file[at : at + 4] = (RATE).to_bytes(4, "big")
    with pytest.warns(UserWarning, match=r"its header tells 16000 of the \d+ bytes of audio"):
        np.testing.assert_array_equal(load_audio(bytes(file)), expected)


def test_audio_that_an_edit_list_leaves_out() -> None:
    m4a = bytearray(encoded("m4a"))
    at = m4a.index(b"mvhd") + 16
    # The list is in units of this scale.
    m4a[at : at + 4] = (2000).to_bytes(4, "big")
    with pytest.warns(UserWarning, match=r"about 5\.\d s, are not decoded: its header leaves them"):
        assert len(load_audio(bytes(m4a))) / RATE == pytest.approx(5.5, abs=0.1)


@pytest.mark.parametrize(
    "filling",
    [b"\xff", b"OggS", b"OggS" + bytes(22) + b"\xff" * 5, b"\0\0\0\x08free", b"LIST\0\0\0\0"],
)
@pytest.mark.parametrize("start", ["mp3", "ogg", "m4a", "wav"])
def test_hostile_files_take_no_time(start: str, filling: bytes) -> None:
    """Megabytes of what inspection has to look at piece by piece."""
    head = encoded(start, 1.0)
    file = head + filling * ((2**24 if b"Ogg" in filling else 2**22) // len(filling))
    reads = 0

    class Counted(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            nonlocal reads
            reads += 1
            return super().read(size)

    began = time.process_time()
    reader = Reader(Counted(file))
    assert parts_of(reader)
    boxes.what_is_cut(reader)
    assert reads < 500_000
    assert time.process_time() - began < 5


@pytest.mark.parametrize("filling", [b"\0", b"\x5a"])
@pytest.mark.parametrize("name", ["aac", "ac3"])
def test_packets_alone_whose_end_was_overwritten(name: str, filling: bytes) -> None:
    """Nothing in such a file tells its length."""
    pytest.importorskip("av")
    container, rate = {"aac": "adts", "ac3": "ac3"}[name], 48000
    data = encode_with_av(noise(5 * rate), rate, container, name)
    half = len(data) // 2
    with pytest.warns(UserWarning, match=r"about 2\.\d s, are no packets of it"):
        samples = load_audio(data[:half] + filling * half)
    assert len(samples) == pytest.approx(2.5 * RATE, abs=RATE / 5)


@pytest.mark.parametrize(
    ("container", "codec"), [("avi", "pcm_s16le"), ("flv", "libmp3lame"), ("asf", "wmav2")]
)
def test_a_file_of_several_tracks_that_is_cut(container: str, codec: str) -> None:
    pytest.importorskip("av")
    whole = encode_tracks([noise(4 * 44100)] * 2, 44100, container, codec)
    half = len(whole) // 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_audio(whole, audio_track=0)) == pytest.approx(4 * RATE, abs=2000)
    for cut in (whole[:half], whole[:half] + bytes(half)):
        with pytest.warns(
            UserWarning, match=r"its header promises [34]\.\d s|last part is not whole"
        ):
            assert len(load_audio(cut, audio_track=0)) < 3 * RATE


@pytest.mark.filterwarnings("error")
def test_ogg_with_a_tag_after_its_end() -> None:
    ogg = encode(noise(RATE), RATE, "OGG", "VORBIS")
    np.testing.assert_array_equal(load_audio(ogg + b"TAG" + bytes(125)), load_audio(ogg))


@pytest.mark.filterwarnings("error")
def test_joined_avi() -> None:
    pytest.importorskip("av")
    one = encode_tracks([noise(4 * 44100)] * 2, 44100, "avi", "pcm_s16le")
    assert len(parts_of(Reader(io.BytesIO(one + one)))) == 2
    samples = load_audio(one + one, audio_track=0)
    assert len(samples) == 8 * RATE
    # Where they meet they are resampled together.
    whole = load_audio(one, audio_track=0)[1000:-1000]
    np.testing.assert_allclose(samples[-len(whole) - 1000 : -1000], whole, atol=1e-4)
