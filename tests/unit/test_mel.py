"""The log-mel front end against its formulas in float64, and against openai-whisper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.log_mel import SIGNALS, SIZES, log_mel, log_mel_float64
from tests.support.signals import front_end_signal, noise
from whisper_npu.audio import load_audio
from whisper_npu.ops import mel

DATA = Path(__file__).parent.parent / "data"
JFK = Path(__file__).parents[2] / "samples" / "jfk.flac"

# What this front end differs by from the formulas in float64: test_formula.
ROUNDING = 4e-7
# What openai-whisper's float32 FFT differs by from them. It depends on the processor: 3.4e-5 and
# 5.3e-5 on the chirp were measured on two.
THEIR_ROUNDING = 6.5e-5


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("n_mels", SIZES)
def test_formula(name: str, n_mels: int) -> None:
    samples = SIGNALS[name]
    result = log_mel(samples, n_mels)
    assert result.dtype == np.float32
    assert result.shape == (n_mels, len(samples) // 160 + 3000)
    np.testing.assert_allclose(result, log_mel_float64(samples, n_mels), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("n_mels", SIZES)
def test_dumped_reference(n_mels: int) -> None:
    signal = front_end_signal()
    with np.load(DATA / "log_mel.npz") as dump:
        reference = dump[f"mel_{n_mels}"]
    result = log_mel(signal, n_mels)[:, : len(signal) // 160]
    # 1.6e-5 in the faintest bins, from the rounding of the reference.
    np.testing.assert_allclose(result, reference, rtol=0, atol=2e-5)


def test_power_of_a_cosine_is_in_its_bin() -> None:
    # 0.5 cos at bin 25: the window's sum is 200, so the amplitude is 50 and its half at the sides.
    samples = (0.5 * np.cos(2 * np.pi * 1000 * np.arange(560) / 16000)).astype(np.float32)
    power = mel.stft_power(samples)
    assert power.shape == (2, 201)
    np.testing.assert_allclose(power[:, 24:27], [[625, 2500, 625]] * 2, rtol=1e-5)
    assert power[:, 30:].max() < 1e-6


def test_rows_do_not_depend_on_their_number() -> None:
    samples = noise(160 * 999 + 400)
    power = mel.stft_power(samples)
    for first, count in ((0, 1), (3, 129), (500, 500)):
        part = mel.stft_power(samples[160 * first : 160 * (first + count - 1) + 400])
        np.testing.assert_array_equal(part, power[first : first + count])


def test_out() -> None:
    samples, filters = noise(160 * 9 + 400), mel.mel_filters(80)
    power = np.empty((10, 201), np.float32)
    assert mel.stft_power(samples, out=power) is power
    np.testing.assert_array_equal(power, mel.stft_power(samples))
    logs = np.empty((80, 10), np.float32)
    assert mel.mel_log10(power, filters, out=logs) is logs
    np.testing.assert_array_equal(logs, mel.mel_log10(power, filters))
    expected = mel.normalise(logs, 1.0)
    assert mel.normalise(logs, 1.0, out=logs) is logs
    np.testing.assert_array_equal(logs, expected)


def test_window() -> None:
    exact = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    window = mel.hann_window()
    assert window.dtype == np.float32
    np.testing.assert_allclose(window, exact, rtol=0, atol=2.5e-7)


def test_floor_and_clamp() -> None:
    silence = mel.mel_log10(np.zeros((3, 201), np.float32), mel.mel_filters(80))
    np.testing.assert_allclose(silence, -10.0, rtol=1e-7)
    values = np.array([-10.0, -4.0, -1.0, 1.0], np.float32)
    np.testing.assert_array_equal(mel.normalise(values, 2.0), [-0.5, 0.0, 0.75, 1.25])


@pytest.mark.parametrize("n_mels", SIZES)
def test_filters_have_unit_area_and_meet_at_their_centres(n_mels: int) -> None:
    filters = mel.mel_filters(n_mels).astype(np.float64)
    assert filters.shape == (n_mels, 201)
    assert filters.min() == 0.0
    # Triangles sampled every 40 Hz: the widest are sampled well enough to sum to their area.
    np.testing.assert_allclose(filters[-10:].sum(axis=1) * 40, 1.0, rtol=0.015)
    peaks = filters.argmax(axis=1)
    assert (np.diff(peaks) >= 0).all()
    # Slaney's scale: 15 mels at 1 kHz and 27 more for each factor of 6.4.
    top = 15 + 27 * np.log(8) / np.log(6.4)
    centres = np.arange(1, n_mels + 1) * top / (n_mels + 1)
    hertz = np.where(centres < 15, centres * 200 / 3, 1000 * 6.4 ** ((centres - 15) / 27))
    assert np.abs(peaks * 40 - hertz).max() <= 20.01


def test_filters_of_no_mels() -> None:
    with pytest.raises(ValueError, match="n_mels must be positive, not 0"):
        mel.mel_filters(0)


@pytest.mark.reference
@pytest.mark.parametrize("n_mels", SIZES)
class TestOpenaiWhisper:
    def test_filters(self, n_mels: int) -> None:
        whisper = pytest.importorskip("whisper.audio")
        reference = whisper.mel_filters("cpu", n_mels).numpy()
        np.testing.assert_allclose(mel.mel_filters(n_mels), reference, rtol=0, atol=4e-9)

    def test_window(self, n_mels: int) -> None:
        torch = pytest.importorskip("torch")
        # One unit in the last place, in a few of the 400.
        np.testing.assert_allclose(
            mel.hann_window(), torch.hann_window(400).numpy(), rtol=0, atol=6e-8
        )

    @pytest.mark.parametrize("name", SIGNALS)
    def test_log_mel(self, n_mels: int, name: str) -> None:
        self.compare(SIGNALS[name], n_mels)

    def test_jfk(self, n_mels: int) -> None:
        speech = load_audio(str(JFK))
        difference = self.compare(speech, n_mels)
        # openai-whisper's rounding shows in the faintest bins of a few frames only.
        assert (difference > 1e-5).mean() <= 1e-4
        self.compare(np.concatenate([speech, np.zeros(160000, np.float32), speech]), n_mels)

    @staticmethod
    def compare(samples: np.ndarray, n_mels: int) -> np.ndarray:
        """The difference is openai-whisper's own from the formulas in float64, value by value."""
        whisper = pytest.importorskip("whisper.audio")
        reference = whisper.log_mel_spectrogram(samples, n_mels, padding=480000).numpy()
        theirs = np.abs(reference - log_mel_float64(samples, n_mels))
        difference = np.abs(log_mel(samples, n_mels) - reference)
        assert theirs.max() <= THEIR_ROUNDING
        assert (difference <= theirs + ROUNDING).all()
        assert difference.mean() <= ROUNDING
        return difference
