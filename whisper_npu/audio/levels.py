"""Samples that cannot be sound, or have another full scale than 1."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator

import numpy as np

from whisper_npu.errors import AudioError
from whisper_npu.ops.arrays import F32

# 30 dB above full scale: more than any recorder keeps, less than speech in integers has.
_FAR = 2.0**5
# Squares of more, added up over a frame of the spectrogram, leave the range of float32.
_LIMIT = 1e9
# Full scale of the integers that a peak may be of.
_INTEGERS = (2**15, 2**23, 2**31)


class Levels:
    """Looks at the samples of one recording as they come."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._peak = 0.0

    def checked(self, blocks: Iterable[F32], start: float, rate: int) -> Iterator[F32]:
        """The blocks, [n] or [n, channels] at ``rate`` Hz, of which the first begins at ``start``
        seconds. Raises AudioError for a sample that is not finite or beyond 1e9."""
        position = 0
        for samples in blocks:
            if samples.size:
                # Not a number is the maximum of everything.
                peak = float(np.maximum(samples.max(), -samples.min()))
                if not peak <= _LIMIT:
                    raise self._refusal(samples, start + position / rate, rate)
                self._peak = max(self._peak, peak)
            position += len(samples)
            yield samples

    def _refusal(self, samples: F32, start: float, rate: int) -> AudioError:
        place = np.argwhere(~(np.abs(samples) <= _LIMIT))[0]
        at, value = start + int(place[0]) / rate, float(samples[tuple(place)])
        if not np.isfinite(value):
            return AudioError(
                f"{self._name}: a sample at {at:.3f} s is not a finite number; repair the audio"
            )
        return AudioError(
            f"{self._name}: a sample at {at:.3f} s is {value:.3g}, where full scale is 1; repair "
            f"the audio, or divide integers by {_full_scale(abs(value))}"
        )

    def warn(self) -> None:
        """At the end: warn if the samples were never scaled."""
        if self._peak > _FAR:
            warnings.warn(
                f"{self._name}: its samples reach {self._peak:.6g}, where full scale is 1; if they "
                f"are integers, divide them by {_full_scale(self._peak)}",
                stacklevel=2,
            )


def _full_scale(peak: float) -> int:
    return next((scale for scale in _INTEGERS if peak <= scale), _INTEGERS[-1])
