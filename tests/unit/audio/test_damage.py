"""Damaged, cut and lying files: all that can be decoded is, at its own time, with one warning."""

from __future__ import annotations

import io
import re
import sys
import warnings

import numpy as np
import pytest

from tests.support.damaged_audio import CONTAINERS, damaged, encoded, joined, lying, truncated
from whisper_npu.audio import load_audio, stream_audio
from whisper_npu.errors import AudioError

av = pytest.importorskip("av")

RATE = 16000
SECONDS = 6.0
# Those whose damage decoders or containers can tell; samples without compression are any.
TELLING = ("flac", "mp3", "ogg", "opus", "m4a", "mkv", "webm", "ac3", "asf", "aac", "ts")


def load(file: bytes) -> tuple[np.ndarray, list[str]]:
    """What is decoded of a file, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        samples = load_audio(file)
    return samples, [str(warning.message) for warning in caught]


def seconds_of(file: bytes) -> float:
    try:
        return len(load(file)[0]) / RATE
    except AudioError:
        return 0.0


def seconds_of_packets(file: bytes) -> float:
    """What FFmpeg's libraries make of a file, as its program does: packets with errors are left
    out."""
    seconds = 0.0
    try:
        with av.open(io.BytesIO(file), metadata_errors="ignore") as container:
            for packet in container.demux(audio=0):
                try:
                    frames = packet.decode()
                except av.error.FFmpegError:
                    continue
                seconds += sum(frame.samples / frame.sample_rate for frame in frames)
    except (av.error.FFmpegError, ValueError):
        pass
    return seconds


@pytest.mark.parametrize("name", CONTAINERS)
class TestSecondsNextToFFmpegs:
    """A frame more or less at an end is a matter of taste."""

    FRAME = 0.1

    def test_damage(self, name: str) -> None:
        data = encoded(name, SECONDS)
        for seed in range(5):
            file = damaged(data, name, seed)
            assert seconds_of(file) > seconds_of_packets(file) - self.FRAME, seed
            assert seconds_of(file) < SECONDS + 0.3, seed

    def test_cut(self, name: str) -> None:
        data = encoded(name, SECONDS)
        for n in range(3):
            file = truncated(data, n, 3)
            assert seconds_of(file) > seconds_of_packets(file) - self.FRAME, n

    def test_joined(self, name: str) -> None:
        for file, seconds in zip(joined(name), (15, 15, 19, 15, 8), strict=False):
            assert seconds_of(file) == pytest.approx(seconds, abs=0.5)

    def test_lying_headers(self, name: str) -> None:
        for n, (what, file) in enumerate(lying(name)):
            if n % 3 == 0:
                assert seconds_of(file) > seconds_of_packets(file) - self.FRAME, what


@pytest.mark.parametrize("name", TELLING)
def test_times_do_not_shift(name: str) -> None:
    """What comes after the damage is where it is in the whole file, and the place is told."""
    data = encoded(name)
    whole, _ = load(data)
    at = len(data) // 4
    file = data[:at] + b"\x55" * 3000 + data[at + 3000 :]
    samples, told = load(file)
    (warning,) = told
    place = re.search(r"filled with silence: (\d+\.\d+) s at (\d+\.\d+) s", warning)
    assert place is not None, warning
    length, start = map(float, place.groups())
    # FFmpeg goes on at the next cluster of Matroska, which are of five seconds, or page of Ogg.
    assert 0.02 < length < {"mkv": 5, "webm": 5, "opus": 2.1, "ogg": 2.1}.get(name, 1.1)
    assert 1.5 < start < 4
    # Some have no times: theirs are those of their bytes, and frames are not equally long.
    tolerance = {"aac": 0.5, "mp3": 0.05, "ac3": 0.02}.get(name, 0.001)
    assert len(samples) == pytest.approx(len(whole), abs=tolerance * RATE)
    margin = int(0.6 * RATE)
    tail = whole[9 * RATE : 10 * RATE]
    shifts = np.correlate(samples[9 * RATE - margin : 10 * RATE + margin], tail, "valid")
    assert abs(int(shifts.argmax()) - margin) <= tolerance * RATE
    # Silence is in the place of what is missing.
    inside = samples[int((start + 0.3 * length) * RATE) : int((start + 0.6 * length) * RATE)]
    assert np.abs(inside).max() < 0.02


@pytest.mark.parametrize("name", ["ogg", "opus"])
def test_a_page_that_is_missing(name: str) -> None:
    """Those that are there are whole, and only their numbers tell."""
    data = encoded(name)
    starts = [match.start() for match in re.finditer(b"OggS", data)]
    middle = len(starts) // 2
    samples, (warning,) = load(data[: starts[middle]] + data[starts[middle + 1] :])
    whole, _ = load(data)
    assert "filled with silence" in warning
    assert len(samples) == len(whole)
    tail = slice(9 * RATE, 11 * RATE)
    assert np.corrcoef(samples[tail], whole[tail])[0, 1] > 0.99


@pytest.mark.parametrize("name", ["flac", "mkv"])
def test_a_damaged_frame_of_flac_is_silence(name: str) -> None:
    """Not the noise that it decodes to: only its checksum tells."""
    data = bytearray(encoded(name))
    whole, _ = load(bytes(data))
    data[len(data) // 2] ^= 0x55
    samples, (warning,) = load(bytes(data))
    assert "filled with silence" in warning
    differs = samples != whole
    assert 0 < differs.sum() < RATE
    assert not samples[differs].any()


def test_noise_beyond_any_sound_is_silence() -> None:
    """What AMR makes of text reaches 1e9: it is damage and no reason to refuse the rest."""
    data = encoded("amr")
    whole, _ = load(data)
    samples, told = load(data + 300 * b"this is a tail\n")
    assert len(samples) > len(whole)
    assert np.array_equal(samples[: 10 * RATE], whole[: 10 * RATE])
    assert "filled with silence" in told[0]
    assert np.abs(samples).max() < 2e4  # resampled


@pytest.mark.parametrize("block_seconds", [0.5, 30.0])
def test_one_decoder_goes_on_where_the_other_ended(block_seconds: float) -> None:
    data = bytearray(encoded("flac"))
    whole, _ = load(bytes(data))
    data[len(data) * 3 // 4] ^= 0x55
    with pytest.warns(UserWarning, match="filled with silence"):
        samples = np.concatenate(list(stream_audio(bytes(data), block_seconds=block_seconds)))
    assert len(samples) == len(whole)
    differs = np.flatnonzero(samples != whole)
    assert 0 < differs[-1] - differs[0] < RATE


def test_many_that_are_joined() -> None:
    part = encoded("flac", 0.1)
    samples, told = load(100 * part)
    assert len(samples) == pytest.approx(100 * 0.1 * RATE, abs=1)
    assert told == []


@pytest.mark.parametrize("name", [n for n in CONTAINERS if n not in ("ac3", "aac", "ts", "amr")])
def test_what_is_cut_is_told(name: str) -> None:
    data = encoded(name, SECONDS)
    if name == "m4a":
        message = r"^bytes: cannot be decoded: its index \(the moov atom\), .* complete copy$"
        with pytest.raises(AudioError, match=message):
            load(data[: len(data) // 2])
        return
    samples, told = load(data[: len(data) // 2])
    assert 1.8 < len(samples) / RATE < 3.6
    (warning,) = told
    assert re.match(r"^bytes: (holds|its last).*\(cut off.*; get a complete copy\)$", warning)


@pytest.mark.parametrize("name", CONTAINERS)
def test_nothing_is_said_of_whole_files(name: str) -> None:
    samples, told = load(encoded(name, SECONDS))
    assert told == []
    assert len(samples) / RATE == pytest.approx(SECONDS, abs=0.1)


@pytest.mark.parametrize("name", ["flac", "mp3", "webm"])
def test_nothing_that_can_be_decoded(name: str) -> None:
    data = encoded(name, SECONDS)
    with pytest.raises(AudioError, match=r"^bytes: "):
        load(data[:300] + b"\x55" * (len(data) - 300))


def test_many_places_are_named_five() -> None:
    data = bytearray(encoded("ac3"))
    for at in range(10000, 100000, 10000):
        data[at : at + 2000] = b"\x55" * 2000
    _, (warning,) = load(bytes(data))
    assert warning.count(" s at ") == 5
    assert warning.endswith(" and 4 more")


class TestWithoutPyAV:
    """libsndfile alone does what it can, and the warning says what would help."""

    HELP = 'pip install "whisper-npu[av]"'

    @pytest.fixture(autouse=True)
    def without_pyav(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in CONTAINERS:
            encoded(name)
            encoded(name, 4.0)
        monkeypatch.setitem(sys.modules, "av", None)

    def test_flac(self) -> None:
        data = encoded("flac")
        samples, (warning,) = load(damaged(data, "flac", 1))
        assert 10.9 < len(samples) / RATE <= 11
        assert self.HELP in warning

    def test_ogg(self) -> None:
        data = encoded("ogg")
        samples, (warning,) = load(data[:30000] + b"\x55" * 1500 + data[31500:])
        assert 9 < len(samples) / RATE < 11
        assert self.HELP in warning

    def test_mp3(self) -> None:
        """All of it is known without FFmpeg."""
        data = encoded("mp3")
        samples, (warning,) = load(data[:15000] + b"\x55" * 1500 + data[16500:])
        assert len(samples) / RATE == pytest.approx(11, abs=0.05)
        assert "filled with silence" in warning

    @pytest.mark.parametrize("name", ["mp3", "ogg", "opus", "flac", "wav", "rf64", "aiff", "au"])
    def test_joined(self, name: str) -> None:
        parts = encoded(name, 4.0), encoded(name)
        samples, told = load(parts[0] + parts[1])
        assert len(samples) / RATE == pytest.approx(15, abs=0.15)
        assert told == []

    def test_what_only_ffmpeg_knows(self) -> None:
        with pytest.raises(AudioError, match="cannot read it") as caught:
            load(encoded("webm"))
        assert self.HELP in str(caught.value)
