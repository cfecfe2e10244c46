"""Which channel of a recording is taken, and mixes in which the sound is lost."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from tests.support.audio_samples import encode
from tests.support.signals import noise
from whisper_npu.audio import load_audio, stream, stream_audio
from whisper_npu.audio.blocks import DecodedBlock
from whisper_npu.audio.channels import channel_labels
from whisper_npu.audio.stream import stream_channels
from whisper_npu.errors import AudioError, OptionError
from whisper_npu.ops.arrays import F32
from whisper_npu.values import Channel

RATE = 16000
SPEECH = noise(RATE)
CANCELLED = r": mixed to one, its channels cancel each other \(one may be inverted\); "


def sixfold() -> F32:  # -> [n, 6]
    return noise(6 * RATE).reshape(RATE, 6)


class TestOne:
    @pytest.mark.parametrize(
        ("channel", "index"), [("left", 0), ("right", 1), (0, 0), (2, 2), (np.int64(5), 5)]
    )
    def test_by_name_and_number(self, channel: Channel, index: int) -> None:
        samples = sixfold()
        for source in (samples, encode(samples, RATE, "WAV", "FLOAT")):
            np.testing.assert_array_equal(load_audio(source, channel=channel), samples[:, index])

    def test_resampled(self) -> None:
        samples = noise(96000).reshape(48000, 2)
        expected = load_audio(samples[:, 1], sampling_rate=48000)
        result = load_audio(encode(samples, 48000, "WAV", "FLOAT"), channel="right")
        np.testing.assert_array_equal(result, expected)

    def test_the_only_one(self) -> None:
        for channel in ("left", 0):
            np.testing.assert_array_equal(load_audio(SPEECH, channel=channel), SPEECH)

    @pytest.mark.parametrize(
        ("channel", "n", "message"),
        [
            ("right", 1, "array: has 1 channel, numbered from 0; there is no channel right"),
            (2, 2, "array: has 2 channels, numbered from 0; there is no channel 2"),
        ],
    )
    def test_missing(self, channel: Channel, n: int, message: str) -> None:
        with pytest.raises(AudioError) as caught:
            load_audio(sixfold()[:, :n], channel=channel)
        assert str(caught.value) == message

    @pytest.mark.parametrize("channel", ["middle", "", -1, True, 0.0, "0", (0,)])
    def test_what_is_none(self, channel: Channel) -> None:
        with pytest.raises(OptionError, match=r"^channel: must be left, right, each, or a number"):
            load_audio(SPEECH, channel=channel)

    def test_each_is_not_one(self) -> None:
        with pytest.raises(OptionError, match=r"^channel: each is for a Transcriber"):
            load_audio(SPEECH, channel="each")

    def test_a_fault_in_another_channel(self) -> None:
        samples = sixfold()
        samples[100, 3] = np.nan
        np.testing.assert_array_equal(load_audio(samples, channel=2), samples[:, 2])
        with pytest.raises(AudioError, match="not a finite number"):
            load_audio(samples)

    def test_a_channel_that_ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        samples = sixfold()
        parts = [DecodedBlock(RATE, samples[:, :n], None) for n in (2, 1, 6)]
        monkeypatch.setattr(stream, "decode_file", lambda *_, **__: iter(parts))
        with pytest.warns(UserWarning, match="^bytes: parts of it have no channel 1; they are sil"):
            result = load_audio(b"RIFF", channel=1)
        expected = np.concatenate([samples[:, 1], np.zeros(RATE, np.float32), samples[:, 1]])
        np.testing.assert_array_equal(result, expected)


class TestEach:
    @pytest.mark.parametrize("n", [1, 2, 3, 6])
    def test_all_at_once(self, n: int) -> None:
        samples = sixfold()[:, :n]
        for rate in (RATE, 44100):
            wav = encode(samples, rate, "WAV", "FLOAT")
            result = np.concatenate(list(stream_channels(wav, block_seconds=0.1)))
            assert result.shape[1] == n
            for channel in range(n):
                blocks = list(stream_audio(wav, channel=channel, block_seconds=0.1))
                np.testing.assert_array_equal(result[:, channel], np.concatenate(blocks))

    def test_labels(self) -> None:
        assert channel_labels(1) == ["channel 0"]
        assert channel_labels(2) == ["left", "right"]
        assert channel_labels(3) == ["channel 0", "channel 1", "channel 2"]

    def test_a_number_that_changes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        samples = sixfold()
        parts = [DecodedBlock(RATE, samples[:, :n], None) for n in (2, 1, 6)]
        monkeypatch.setattr(stream, "decode_file", lambda *_, **__: iter(parts))
        with pytest.warns(UserWarning, match="number of channels changes; only the 2 that it begi"):
            result = np.concatenate(list(stream_channels(b"RIFF")))
        silent = np.stack([samples[:, 0], np.zeros(RATE, np.float32)], axis=1)
        expected = np.concatenate([samples[:, :2], silent, samples[:, :2]])
        np.testing.assert_array_equal(result, expected)


class TestCancelled:
    @pytest.mark.parametrize("gain", [1.0, 0.8])
    def test_one_of_two_is_inverted(self, gain: float) -> None:
        samples = np.stack([SPEECH, -np.float32(gain) * SPEECH], axis=1)
        for source, name in ((samples, "array"), (encode(samples, 44100, "WAV", "FLOAT"), "bytes")):
            with pytest.warns(UserWarning, match=f"^{name}{CANCELLED}") as caught:
                load_audio(source)
            assert [str(w.message).partition("; ")[2] for w in caught] == [
                "transcribe one of them with --channel left, or all with --channel each"
            ]

    def test_in_most_of_a_recording(self) -> None:
        inverted = np.tile(np.stack([SPEECH, -SPEECH], axis=1), (200, 1))
        inverted[:RATE] = SPEECH[:, None]
        with pytest.warns(UserWarning, match=CANCELLED):
            load_audio(inverted)

    def test_the_only_speech_is_in_what_is_left_out(self) -> None:
        samples = np.zeros((RATE, 3), np.float32)
        samples[:, 2] = SPEECH
        with pytest.warns(UserWarning, match=CANCELLED):
            load_audio(samples)

    def test_sound_that_is_kept(self) -> None:
        alone, silent = np.zeros((2, RATE, 8), np.float32)
        alone[:, 6] = SPEECH
        uncorrelated = noise(8 * RATE).reshape(RATE, 8)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for n in range(1, 9):
                load_audio(uncorrelated[:, :n])
                load_audio(silent[:, :n])
            load_audio(alone)
            load_audio(np.stack([SPEECH, np.zeros(RATE, np.float32)], axis=1))
            loud_bass = uncorrelated[:, :6] * np.array([1, 1, 1, 3, 1, 1], np.float32)
            load_audio(loud_bass)
            inverted = np.stack([SPEECH, -SPEECH], axis=1)
            load_audio(inverted, channel="left")
            list(stream_channels(inverted))
