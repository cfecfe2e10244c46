"""Samples that cannot be sound, samples that were never scaled, and rates that are none."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator

import numpy as np
import pytest

from tests.support.audio_samples import encode
from tests.support.signals import noise, tone
from whisper_npu.audio import load_audio, stream
from whisper_npu.audio.blocks import DecodedBlock
from whisper_npu.errors import AudioError
from whisper_npu.ops.arrays import F32

RATE = 16000
LOUD = noise(RATE) / np.abs(noise(RATE)).max()


class TestUnscaled:
    @pytest.mark.parametrize(
        ("scale", "divisor"), [(32767, 32768), (2**23 - 1, 8388608), (9e8, 2147483648)]
    )
    def test_integers_as_floats(self, scale: float, divisor: int) -> None:
        samples = LOUD * np.float32(scale)
        for source, name in ((samples, "array"), (encode(samples, RATE, "WAV", "FLOAT"), "bytes")):
            with pytest.warns(UserWarning, match=rf"^{name}: its samples reach .* is 1") as caught:
                np.testing.assert_array_equal(load_audio(source), samples)
            (text,) = {str(warning.message) for warning in caught}
            assert text.endswith(f"if they are integers, divide them by {divisor}")

    def test_the_peak_is_that_of_the_whole_recording(self) -> None:
        samples = np.zeros(60 * RATE, np.float32)
        samples[10 * RATE : 11 * RATE : 7] = 100
        samples[40 * RATE] = -20000.5
        with pytest.warns(UserWarning, match="its samples reach 20000.5, where") as caught:
            load_audio(samples)
        assert len(caught) == 1

    @pytest.mark.filterwarnings("error")
    def test_somewhat_too_loud(self) -> None:
        load_audio(LOUD * np.float32(31))

    def test_integers_of_16_bits_in_32(self) -> None:
        samples = np.round(LOUD * 32767).astype(np.int32)
        with pytest.warns(UserWarning, match=r"^array: its int32 samples are within 16 bits"):
            load_audio(samples)

    @pytest.mark.filterwarnings("error")
    def test_integers_of_32_bits(self) -> None:
        load_audio(np.round(LOUD * 32769).astype(np.int32))
        load_audio(np.zeros(RATE, np.int32))


class TestRefused:
    @pytest.mark.parametrize("value", [1e25, -1e19, 1.1e9])
    def test_samples_beyond_all_sound(self, value: float) -> None:
        samples = noise(RATE)
        samples[4000] = value
        message = rf"^(array|bytes): a sample at 0\.250 s is {value:.3g}, where full scale is 1; "
        for source in (samples, encode(samples, RATE, "WAV", "FLOAT")):
            with pytest.raises(AudioError, match=message.replace("+", r"\+")):
                load_audio(source)

    def test_samples_in_a_later_part(self) -> None:
        samples = noise(40 * RATE)
        samples[-1] = 1e10
        with pytest.raises(AudioError, match=r"a sample at 40\.000 s is 1e\+10"):
            load_audio(samples)

    def test_the_remedy_of_integers(self) -> None:
        with pytest.raises(AudioError, match=r"or divide integers by 2147483648$"):
            load_audio(np.array([0, 2.0**31]))

    def test_what_lies_between_samples(self) -> None:
        """Resampled, it is found to be beyond the limit that the samples themselves keep."""
        square = np.sign(tone(1.0, 8000, 1900.0)).astype(np.float32) * np.float32(9.9e8)
        with pytest.raises(AudioError, match=r"a sample at 0\.\d+ s is -?1\.\d+e\+09"):
            load_audio(square, sampling_rate=8000)

    def test_infinities_that_cancel_each_other(self) -> None:
        samples = np.array([[np.inf, -np.inf], [0, 0]], np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(AudioError, match=r"at 0\.000 s is not a finite number"):
                load_audio(samples)


class TestRates:
    @pytest.mark.parametrize("rate", [1, 999, 768_001, 2**31 - 1])
    def test_refused(self, rate: int) -> None:
        message = f": a sampling rate of {rate} Hz is not one of 1000 to 768000 Hz; give the audio"
        with pytest.raises(AudioError, match=f"^array{message}"):
            load_audio(noise(1000), sampling_rate=rate)
        wav = bytearray(encode(np.zeros(2000, np.int16), RATE, "WAV"))
        struct.pack_into("<I", wav, 24, rate)
        with pytest.raises(AudioError, match=f"^bytes{message}"):
            load_audio(bytes(wav))

    @pytest.mark.parametrize("rate", [1000, 768_000])
    def test_accepted(self, rate: int) -> None:
        samples = tone(1.0, rate, 100.0)
        result = load_audio(encode(samples, rate, "WAV", "FLOAT"))
        assert len(result) == RATE
        np.testing.assert_array_equal(load_audio(samples, sampling_rate=rate), result)
        np.testing.assert_allclose(result[4000:-4000], tone(1.0, RATE, 100.0)[4000:-4000], 0, 1e-3)

    @pytest.mark.parametrize("rate", [16000.0, np.int64(16000), np.float32(16000), np.array(16000)])
    def test_rates_as_numpy_has_them(self, rate: int) -> None:
        np.testing.assert_array_equal(load_audio(LOUD, sampling_rate=rate), LOUD)

    def test_a_rate_that_changes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each part is resampled on its own, and none of it is lost."""

        def blocks(*_: object, **__: object) -> Iterator[DecodedBlock]:
            for rate in (8000, 8000, 16000, 48000, 48000, 8000):
                yield DecodedBlock(rate, tone(1.0, rate)[:, None], "mono")

        monkeypatch.setattr(stream, "decode_file", blocks)
        expected: list[F32] = [
            load_audio(np.concatenate([tone(1.0, rate)] * n), sampling_rate=rate)
            for rate, n in ((8000, 2), (16000, 1), (48000, 2), (8000, 1))
        ]
        np.testing.assert_array_equal(load_audio(b"RIFF"), np.concatenate(expected))

    def test_the_time_of_a_sample_in_a_part_with_another_rate(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broken = tone(1.0, 48000)
        broken[12000] = np.nan
        blocks = iter([(8000, tone(1.0, 8000)), (48000, tone(1.0, 48000)), (48000, broken)])
        decoded = (DecodedBlock(rate, samples[:, None], None) for rate, samples in blocks)
        monkeypatch.setattr(stream, "decode_file", lambda *_, **__: decoded)
        with pytest.raises(AudioError, match=r"a sample at 2\.250 s is not a finite number"):
            load_audio(b"RIFF")
