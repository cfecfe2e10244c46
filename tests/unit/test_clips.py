"""The clips of a file: cut at pauses, or those that were asked for."""

from __future__ import annotations

import re
import warnings
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from tests.unit.decoding_fakes import Levels
from whisper_npu.decoding.clips import Clip, cut_at_pauses, find_clips
from whisper_npu.decoding.levels import levels
from whisper_npu.decoding.options import TranscribeOptions


def cuts(levels: np.ndarray, start: int = 0, longest: int = 3000) -> list[Clip]:
    return list(cut_at_pauses(Levels(levels.astype(np.float32)), start, longest))


class Integers(Levels):
    """Features of these frames, [n_mels, n]."""

    def __init__(self, frames: np.ndarray) -> None:
        super().__init__(np.zeros(frames.shape[1]))
        self.frames = frames

    def window(self, seek: int, size: int | None = None) -> np.ndarray:
        return self.frames[:, seek : seek + (size or 3000)]


def loud(n_frames: int, *quiet: tuple[int, int, float]) -> np.ndarray:
    """Levels of 1 but for some parts: start, end, level."""
    levels = np.ones(n_frames)
    for start, end, level in quiet:
        levels[start:end] = level
    return levels


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (loud(0), []),
        (loud(1), [(0, 1)]),
        (loud(3000), [(0, 3000)]),
        # The middle of the quietest 0.4 s, even if less would do for a pause.
        (loud(3001, (2500, 2540, 0)), [(0, 2520), (2520, 3001)]),
        (loud(4000, (2200, 2300, 0.5), (2700, 2740, 0.25)), [(0, 2720), (2720, 4000)]),
        # A pause counts by its length too: half as quiet for more than twice as long.
        (loud(4000, (2200, 2216, 0), (2700, 2740, 0.5)), [(0, 2720), (2720, 4000)]),
        # Not before the last third.
        (loud(4000, (1000, 1990, 0), (2100, 2140, 0.9)), [(0, 2120), (2120, 4000)]),
        # The latest of several.
        (loud(4000, (2200, 2240, 0), (2800, 2840, 0)), [(0, 2820), (2820, 4000)]),
        # Silence, or no pause at all: hardly shorter than 30 s.
        (loud(7000), [(0, 2980), (2980, 5960), (5960, 7000)]),
    ],
)
def test_cuts(levels: np.ndarray, expected: list[Clip]) -> None:
    assert cuts(levels) == expected


def test_cuts_of_integers() -> None:
    """Where levels are equal in integers, the latest is taken, however the sums are formed."""
    frames = np.random.RandomState(0).randint(-9000, 9000, (80, 3000)).astype(np.int16)
    found = levels(frames)
    np.testing.assert_allclose(found, frames.mean(axis=0) / 8192, rtol=0, atol=2.0**-21)
    assert float(sum(map(Fraction, found))) == found.sum() == found[::-1].cumsum()[-1]
    frames = np.tile(frames[:, :100], (1, 40))
    ((_, end), _) = cut_at_pauses(Integers(frames), 0, 3000)
    sums = [sum(map(Fraction, found[(np.arange(40) + i) % 100])) for i in range(100)]
    assert (end - 20) % 100 == int(np.argmin(sums))
    assert 2960 - 100 < end - 20 <= 2960


@pytest.mark.parametrize("longest", [2, 3, 30, 100, 1000, 3000])
def test_cuts_leave_nothing_out(longest: int) -> None:
    for seed in range(20):
        levels = np.random.RandomState(seed).rand(seed * longest // 2 + 7)
        clips = cuts(levels, 5, longest)
        assert clips[0][0] == 5
        assert clips[-1][1] == len(levels)
        assert all(end == start for (_, end), (start, _) in pairwise(clips))
        assert all(0 < end - start <= longest for start, end in clips)
        assert all(end - start >= longest * 2 // 3 for start, end in clips[:-1])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("0", [(0, 2520), (2520, 5000)]),
        ("", [(0, 2520), (2520, 5000)]),
        ("0,50", [(0, 5000)]),
        ("10", [(1000, 3980), (3980, 5000)]),
        ("1,2,10", [(100, 200), (1000, 3980), (3980, 5000)]),
        ("40,45,1,2.5", [(4000, 4500), (100, 250)]),
        ("40,999", [(4000, 5000)]),
        ("70", []),
    ],
)
def test_a_clip_without_an_end_is_cut(given: str, expected: list[Clip]) -> None:
    features = Levels(loud(5000, (2500, 2540, 0)).astype(np.float32))
    options = TranscribeOptions.from_keywords(clip_timestamps=given, batch_size=3)
    assert list(find_clips(features, options, 3000)) == expected


@pytest.mark.parametrize("batch_size", [None, 3])
def test_a_clip_beyond_the_audio_is_told(batch_size: int | None) -> None:
    features = Levels(loud(5000).astype(np.float32))
    for given, beyond in (("50", True), ("0,1,70,80", True), ("49", False), ("0,99", False)):
        options = TranscribeOptions.from_keywords(clip_timestamps=given, batch_size=batch_size)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            list(find_clips(features, options, 3000))
        told = [str(warning.message) for warning in caught]
        assert len(told) == beyond
        assert all(
            re.match(r"clip_timestamps: a clip begins at [57]0 s, .* 50\.0 s$", t) for t in told
        )
