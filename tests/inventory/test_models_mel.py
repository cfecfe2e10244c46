from __future__ import annotations

import numpy as np
import pytest

from kernels.inventory.models import MODELS, mel
from tests.inventory import c_mel
from tests.inventory.launches import int8_inputs
from whisper_npu.ops.arrays import I8


def _frame(samples: np.ndarray) -> I8:
    return np.clip(np.rint(samples), -32768, 32767).astype("<i2").view(np.int8)


def _frames() -> list[I8]:
    time = np.arange(400)
    generator = np.random.RandomState(1)
    speech = 3000 * np.sin(0.05 * time) + 900 * np.sin(0.4 * time + 1)
    return [
        _frame(speech + 30 * generator.standard_normal(400)),
        _frame(speech / 100),
        _frame(32767 * np.sin(0.3 * time)),
        _frame(np.where(time % 2 == 0, 32767, -32768)),
        _frame(np.full(400, -32768)),
        _frame(np.where(time == 200, 32767, 0)),
        *int8_inputs(800, random=1)[:1],
    ]


FRAMES = _frames()


@pytest.mark.parametrize("name", c_mel.MODELS)
def test_every_bit_is_that_of_the_loops(name: str) -> None:
    outputs = MODELS[name](np.stack(FRAMES))
    for frame, output in zip(FRAMES, outputs, strict=True):
        assert output.tolist() == c_mel.MODELS[name](frame.tolist())


@pytest.mark.parametrize("name", c_mel.MODELS)
def test_inputs_are_not_all_0_or_127(name: str) -> None:
    # Or the test above would compare little.
    outputs = MODELS[name](np.stack(FRAMES))
    assert len(np.unique(outputs)) > 3


def test_tables_are_the_published_ones() -> None:
    window = mel.hann_window()
    assert window[:8].tolist() == [0, 2, 8, 18, 32, 51, 73, 99]
    assert window[198:202].tolist() == [32762, 32766, 32766, 32762]
    cos, sin = mel.twiddles()
    assert cos[:4].tolist() == [32767, 32765, 32757, 32745]
    assert sin[[1, 128, 255]].tolist() == [-402, -32767, -402]


def test_bands_of_unit_sum_are_the_published_ones() -> None:
    bands = mel.unit_sum_bands()
    # The first bin of the band and its weights; band 2 has none.
    assert not bands[2].any()
    published = {
        0: (0, [32767]),
        17: (16, [21845, 10922]),
        70: (176, [840, 1680, 2521, 3361, 4201, 5041, 4321, 3601, 2881, 2160, 1440, 720]),
        73: (196, [780, 1560, 2340, 3121, 3901, 4681, 4096, 3511, 2926, 2340, 1755, 1170, 585]),
    }
    for band, (first, weights) in published.items():
        assert bands[band, first : first + len(weights)].tolist() == weights
        assert np.count_nonzero(bands[band]) == len(weights)


def test_bands_of_unit_peak_are_the_published_ones() -> None:
    bands = mel.unit_peak_bands()
    published = {
        0: [],
        17: [32767, 16383],
        49: [10922, 21844, 32767, 24575, 16383, 8191],
        63: [6553, 13106, 19660, 26213, 32767, 27305, 21844, 16383, 10922, 5461],
    }
    for band, weights in published.items():
        assert bands[band][bands[band] != 0].tolist() == weights


def test_the_unscaled_fft_wraps() -> None:
    loud = _frame(np.full(400, 20000))
    quiet = _frame(np.full(400, 20))
    # Bin 0 of the loud frame is 4 million before it wraps, which would be 127 many times over.
    assert 0 < mel.fixed_v1(quiet)[0] < 127
    assert mel.fixed_v1(loud)[0] < 127


def test_silence_is_0() -> None:
    for name in c_mel.MODELS:
        assert not MODELS[name](np.zeros(800, np.int8)).any()
