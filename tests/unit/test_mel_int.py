"""The integer log-mel front end: its formulas in Python's integers, its error, its limits."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from tests.support.log_mel import SIGNALS, SIZES, log_mel_float64, log_mel_in_integers
from tests.support.signals import noise, tone
from whisper_npu.audio import load_audio
from whisper_npu.backends.opening import numpy_machine
from whisper_npu.model.builders import build_mel
from whisper_npu.ops import mel, mel_int
from whisper_npu.ops.fixed import FEATURE_FRACTION
from whisper_npu.ops.mel_int import MelTables, sample_order, table_shapes
from whisper_npu.ops.mel_tables import mel_tables, named_tables
from whisper_npu.runtime.plan import Plan
from whisper_npu.runtime.weights import Weights

SAMPLES = Path(__file__).parents[2] / "samples"
SPEECH = ("jfk.flac", "librivox.flac")
# Half a unit of the features, and what filters and spectra are rounded by: 80 dB below a tone, at
# the clamp, as much again and more.
ERROR, ERROR_OF_TONES = 1.3e-4, 2.5e-4


@cache
def speech(name: str) -> np.ndarray:
    return load_audio(str(SAMPLES / name))[:480000]


class TestError:
    """Of the normalised features, against the float64 formulas."""

    @pytest.mark.parametrize("level", [1.0, 1e-3])
    @pytest.mark.parametrize("n_mels", SIZES)
    @pytest.mark.parametrize("name", [*SIGNALS, *SPEECH])
    def test_signals(self, name: str, n_mels: int, level: float) -> None:
        samples = (speech(name) if name in SPEECH else SIGNALS[name]) * np.float32(level)
        error = np.abs(log_mel_in_integers(samples, n_mels) - log_mel_float64(samples, n_mels))
        assert error.max() <= (ERROR_OF_TONES if name in ("tone", "chirp") else ERROR)
        assert np.sqrt(np.square(error).mean()) <= 2.0**-FEATURE_FRACTION / 2

    @pytest.mark.parametrize("n_mels", [1, 2, 7, 80, 128, 200])
    def test_any_number_of_mels(self, n_mels: int) -> None:
        samples = noise(16000)
        error = np.abs(log_mel_in_integers(samples, n_mels) - log_mel_float64(samples, n_mels))
        # 200 filters are narrow: some are between two bins, and tails of some are all that is
        # there, of which float32 keeps more.
        assert error.max() <= (ERROR if n_mels <= 128 else 1e-3)

    def test_square_waves_and_clicks(self) -> None:
        at = np.arange(16000)
        click = np.where(at == 8000, 1.0, 1e-5 * noise(16000)).astype(np.float32)
        for samples in (np.sign(np.sin(np.pi * (at + 0.5) / 8)).astype(np.float32), click):
            error = np.abs(log_mel_in_integers(samples, 80) - log_mel_float64(samples, 80))
            assert error.max() <= ERROR


class TestFormulas:
    """Every number against Python's integers, of any width."""

    @pytest.mark.parametrize("n_mels", [7, 80, 128, 200])
    def test_equal(self, n_mels: int) -> None:
        rng = np.random.default_rng(n_mels)
        samples = noise(160 * 7 + 400) * (10.0 ** rng.uniform(-9, 6, 1520)).astype(np.float32)
        samples[:500] = 0
        samples[700:1000] = np.sign(samples[700:1000])
        tables = mel_tables(n_mels)
        frames = np.lib.stride_tricks.sliding_window_view(samples, 400)[::160]
        expected = [exact(frame, tables) for frame in frames]
        np.testing.assert_array_equal(
            mel_int.log_mel_int16(samples, tables).T, np.array(expected, np.int16)
        )

    @pytest.mark.parametrize("level", [1.0, 2.0**-126, 2.0**-149, 2.0**100, 3e38])
    def test_levels(self, level: float) -> None:
        tables = mel_tables(80)
        samples = np.where(tone(0.025) > 0, level, -level / 3).astype(np.float32)
        np.testing.assert_array_equal(
            mel_int.log_mel_int16(samples, tables)[:, 0], exact(samples, tables)
        )


def exact(frame: np.ndarray, tables: MelTables) -> list[int]:  # [400] -> [n_mels]
    """One frame by the definition, transform by transform."""
    exponent = max([-100, *(int(np.frexp(x)[1]) for x in frame if x)])
    integers = [round(Fraction(float(x)) * Fraction(2) ** (22 - exponent)) for x in frame]
    if not any(integers):
        return [mel_int.SILENCE] * len(tables.filters)
    window = dict(zip(sample_order().tolist(), tables.window.tolist(), strict=True))
    windowed = [round(Fraction(x * window[n], 2**22)) for n, x in enumerate(integers)]
    short = tables.short_waves.tolist()
    long = tables.long_waves.tolist()
    first = []
    for wave in short:
        inputs = [[windowed[(25 * m + 16 * n) % 400] for m in range(16)] for n in range(25)]
        sums = [sum(x * y for x, y in zip(wave, row, strict=True)) for row in inputs]
        first.append([round(Fraction(x, 2**22)) for x in sums])
    second = [
        [sum(x * y for x, y in zip(values, wave, strict=True)) for wave in long] for values in first
    ]
    power = []
    for k in range(201):
        # Row of the cosine, row of the sine, and which way the sine turns.
        a, turn_a = (k % 16, 1) if k % 16 <= 8 else (16 - k % 16, -1)
        b, turn_b = (k % 25, 1) if k % 25 <= 12 else (25 - k % 25, -1)
        real = second[a][b] - turn_a * turn_b * second[9 + a][13 + b]
        imaginary = turn_a * second[9 + a][b] + turn_b * second[a][13 + b]
        power.append(sum(round(Fraction(x, 2**26)) ** 2 for x in (real, imaginary)))
    result = []
    for row, shift in zip(tables.filters.tolist(), tables.shifts.tolist(), strict=True):
        total = sum(x * y for x, y in zip(power, row, strict=True))
        value = (total + 2**19) >> 20
        if value == 0:
            result.append(mel_int.SILENCE)
            continue
        bits = value.bit_length() - 1
        mantissa = (value << 20 >> bits) - 2**20
        step, rest = divmod(mantissa, 2**13)
        low, high = tables.logarithms.tolist()[step : step + 2]
        log10 = low + ((high - low) * rest >> 13)
        log10 += (bits - 16 + 2 * exponent - shift) * 1262611
        log10 = (log10 + 2**10) >> 11
        result.append(min(max(log10, mel_int.SILENCE), mel_int.LOUDEST))
    return result


class TestLimits:
    """Every integer driven as far as it goes, and no further than its type holds."""

    LARGEST = np.nextafter(np.float32(1), np.float32(0))

    def driven(self, signs: np.ndarray) -> tuple[np.ndarray, ...]:
        """Windowed samples, spectrum and filtered power of the loudest frame of these signs."""
        frame = (signs * self.LARGEST).astype(np.float32)[None]
        exponents = mel_int.frame_exponents(frame)
        assert exponents.tolist() == [0]
        tables = mel_tables(80)
        windowed = mel_int.windowed(frame, exponents, tables)
        power = mel_int.spectrum_power(windowed, tables)
        return windowed, power, mel_int.filtered(power, tables)

    def test_windowed_samples(self) -> None:
        windowed, _, _ = self.driven(np.ones(400))
        assert windowed.max() == 2**22
        assert windowed.sum() == pytest.approx(200 * 2**22, rel=1e-6)

    @pytest.mark.parametrize("k", [0, 1, 2, 8, 25, 50, 100, 199, 200])
    def test_spectrum(self, k: int) -> None:
        # The signs of a cosine or a sine make the real or the imaginary part of its bin largest.
        largest = 0.0
        for phase in (0.0, 0.1, np.pi / 2):
            wave = np.cos(2 * np.pi * k * np.arange(400) / 400 + phase)
            windowed, power, sums = self.driven(np.where(wave >= 0, 1, -1))
            largest = max(largest, power[k, 0])
            assert power.max() < 2**52
            assert sums.max() < 2**52
            tables = mel_tables(80)
            short = np.rint(tables.short_waves * 2.0**-22 @ windowed)
            assert np.abs(short).max() <= 2**25 + 8
            both = np.abs(tables.long_waves @ short.transpose(1, 0, 2))
            assert both.max() <= 200 * 2.0**44 * (1 + 1e-5)
        # All samples add up in the first and last bin, and 2 / pi of them and more in others.
        assert largest >= (200 * 2**18 * (1 if k in (0, 200) else 0.63)) ** 2

    def test_sums_of_16_that_are_largest(self) -> None:
        # Of samples 25 apart, with the window above them.
        signs = np.ones(400)
        windowed, _, _ = self.driven(signs)
        short = mel_tables(80).short_waves * 2.0**-22 @ windowed
        assert short.max() == pytest.approx(2**25, rel=1e-6)

    def test_filters_in_halves(self) -> None:
        """What all of the power in the widest filter there is gives."""
        tables = mel_tables(1)
        weights = tables.filters[0].tolist()
        # All 26 bits of the lower half are set; together they are what Parseval's theorem allows.
        power = 2**45 - 1
        assert 201 * power >= 400 * 150 * 2**36
        assert sum(weights) * (2**26 - 1) < 2**53
        found = mel_int.filtered(np.full((201, 1), float(power)), tables)
        assert found == (sum(weights) * power + 2**19) >> 20

    def test_logarithms(self) -> None:
        tables = mel_tables(80)
        largest = np.array([2.0**53 - 1, 1.0, 0.0])
        sums = np.tile(largest, (80, 1))
        for exponent in (-100, 0, 128):
            found = mel_int.log10_int16(sums, np.full(3, exponent, np.int32), tables)
            for value, column in zip(largest, found.T, strict=True):
                shifted = exponent * 2 - 16 - tables.shifts.astype(np.float64)
                log10 = np.log10(value) + shifted * np.log10(2) if value else -np.inf
                expected = np.clip(log10 * 2048, mel_int.SILENCE, mel_int.LOUDEST)
                assert np.abs(column - expected).max() <= 0.53

    def test_logarithms_are_within_half_a_unit(self) -> None:
        tables = mel_tables(80)._replace(shifts=np.zeros(1, np.int32))
        sums = np.random.default_rng(0).integers(1, 2**20, 10000).astype(np.float64)[None]
        found = mel_int.log10_int16(sums, np.full(10000, 8, np.int32), tables)
        assert np.abs(found - 2048 * np.log10(sums)).max() <= 0.52

    def test_loudest_and_silence_fit_features(self) -> None:
        limits = np.array([mel_int.SILENCE, 0, mel_int.LOUDEST], np.int16)
        assert mel_int.normalise_int16(limits, mel_int.LOUDEST).tolist() == [16383, 16383, 32767]
        assert mel_int.normalise_int16(limits, mel_int.SILENCE)[0] == -12288

    def test_samples_beyond_one(self) -> None:
        """Nothing is clipped: features go on as far as they can be told from each other."""
        samples = tone(0.1)
        louder = log_mel_in_integers(samples * np.float32(1024), 80)
        louder -= log_mel_in_integers(samples, 80)
        np.testing.assert_allclose(louder[:, :5], 2 * np.log10(1024) / 4, atol=2.0**-13)
        loudest = log_mel_in_integers(samples * np.float32(1e37), 80)
        assert loudest.max() == 32767 / 8192


class TestRows:
    def test_frames_do_not_depend_on_others(self) -> None:
        samples, tables = noise(160 * 999 + 400), mel_tables(80)
        samples[50000:] *= 1000
        result = mel_int.log_mel_int16(samples, tables)
        for first, count in ((0, 1), (3, 257), (500, 500)):
            part = samples[160 * first : 160 * (first + count - 1) + 400]
            np.testing.assert_array_equal(
                mel_int.log_mel_int16(part, tables), result[:, first : first + count]
            )

    def test_out(self) -> None:
        samples, tables = noise(160 * 9 + 400), mel_tables(80)
        out = np.empty((80, 10), np.int16)
        assert mel_int.log_mel_int16(samples, tables, out) is out
        np.testing.assert_array_equal(out, mel_int.log_mel_int16(samples, tables))
        expected = mel_int.normalise_int16(out, 100)
        assert mel_int.normalise_int16(out, 100, out=out) is out
        np.testing.assert_array_equal(out, expected)

    def test_powers_of_two_add_a_constant(self) -> None:
        samples, tables = noise(160 * 9 + 400, level=0.5), mel_tables(80)
        result = mel_int.log_mel_int16(samples, tables).astype(np.int32)
        scaled = mel_int.log_mel_int16(samples * np.float32(2**-10), tables)
        assert set(np.unique(result - scaled)) <= {12330, 12331}  # 20 log10(2) * 2048 = 12330.2


def test_graph() -> None:
    samples = noise(160 * 6 + 400)
    weights = Weights({}, named_tables(80))
    plan = Plan(build_mel(80, 7, "int8"), weights, {}, numpy_machine())
    plan(samples=samples)
    np.testing.assert_array_equal(
        plan.outputs["log_mel"], mel_int.log_mel_int16(samples, mel_tables(80))
    )


class TestTables:
    HASHES: ClassVar = {
        80: "d76266b077a26ff1fba30e5f3015b79b6f1bebea7ddb4651eeb943b9534c582d",
        128: "df172a8cd8ea2d5955617c39c5a7edd1ac287806f0ef1559f2e2801f4acd8fb7",
    }

    @pytest.mark.parametrize("n_mels", HASHES)
    def test_same_on_every_machine(self, n_mels: int) -> None:
        digest = hashlib.sha256()
        for table in mel_tables(n_mels):
            digest.update(table.astype("<i4").tobytes())
        assert digest.hexdigest() == self.HASHES[n_mels]

    def test_symmetries(self) -> None:
        """By which kernels add samples up before they multiply."""
        tables = mel_tables(80)
        for waves in (tables.short_waves, tables.long_waves):
            cosines, sines = np.split(waves, 2)
            np.testing.assert_array_equal(cosines[:, 1:], cosines[:, :0:-1])
            np.testing.assert_array_equal(sines[:, 1:], -sines[:, :0:-1])
        cosines, sines = np.split(tables.short_waves, 2)
        signs = np.where(np.arange(9) % 2, -1, 1)[:, None]
        np.testing.assert_array_equal(cosines[:, :9], signs * cosines[:, 8::-1])
        np.testing.assert_array_equal(sines[:, :9], -signs * sines[:, 8::-1])

    def test_formulas(self) -> None:
        tables = mel_tables(80)
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * sample_order() / 400)
        np.testing.assert_allclose(tables.window, hann * 2**22, atol=0.5 + 1e-6)
        for waves, length in ((tables.short_waves, 16), (tables.long_waves, 25)):
            phase = 2 * np.pi * np.outer(np.arange(length // 2 + 1), np.arange(length)) / length
            expected = np.concatenate([np.cos(phase), np.sin(phase)]) * 2**22
            np.testing.assert_allclose(waves, expected, atol=0.5 + 1e-6)
        steps = np.log10(1 + np.arange(129) / 128) * 2**22
        np.testing.assert_allclose(tables.logarithms, steps, atol=0.5 + 1e-6)
        assert round(Decimal(2).log10() * 2**22) == 1262611

    @pytest.mark.parametrize("n_mels", [1, 7, *SIZES, 200, 400])
    def test_filters(self, n_mels: int) -> None:
        tables = mel_tables(n_mels)
        largest = tables.filters.max(axis=1)
        assert ((largest == 0) | ((largest >= 2**19) & (largest < 2**20))).all()
        # Those between two bins have no weights.
        np.testing.assert_array_equal(largest == 0, mel.mel_filters(n_mels).max(axis=1) == 0)
        assert (largest == 0).any() == (n_mels > 128)
        filters = tables.filters * 2.0 ** -tables.shifts[:, None]
        np.testing.assert_allclose(filters, mel.mel_filters(n_mels), rtol=0, atol=8e-8)

    def test_names_and_shapes(self) -> None:
        tables = named_tables(7)
        assert list(tables) == [f"mel.{field}" for field in MelTables._fields]
        assert {name: table.shape for name, table in tables.items()} == table_shapes(7)
        assert {table.dtype for table in tables.values()} == {np.dtype(np.int32)}

    def test_no_mels(self) -> None:
        with pytest.raises(ValueError, match="n_mels must be positive, not 0"):
            mel_tables(0)


SCRIPT = """
import hashlib, numpy as np
from whisper_npu.ops.mel_int import log_mel_int16
from whisper_npu.ops.mel_tables import mel_tables, named_tables
digest = hashlib.sha256()
random = np.random.RandomState(0)
for count, level in ((160 * 700 + 400, 2.0**-15), (4000, 2.0**-35), (400, 1.0)):
    samples = random.randint(-(2**15), 2**15, count).astype(np.float32) * np.float32(level)
    samples[count // 2 :] /= 3
    for n_mels in (80, 128):
        digest.update(log_mel_int16(samples, mel_tables(n_mels)).tobytes())
print(digest.hexdigest())
"""
BITS = "b913d0009e855429f6f8e98a9829d9d51a8aed6b5f0a0c59344d1caf94c4100b"


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"NPY_DISABLE_CPU_FEATURES": "X86_V4 X86_V3 AVX512F AVX2 FMA3"},
        {"OPENBLAS_CORETYPE": "Prescott"},
        {"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_NUM_THREADS": "3"},
    ],
    ids=["plain", "no features", "SSE", "threads"],
)
def test_bits(variables: dict[str, str]) -> None:
    """The same on all processors: NumPy's and OpenBLAS's code for others gives the same."""
    environment = {k: v for k, v in os.environ.items() if k not in variables}
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        env=environment | variables, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == BITS
