"""The language of a file: that of its first windows that may hold speech.

A file of one window is what it is. In a longer one windows of silence, hum or steady noise are
passed over, which a model takes for any language: their level neither rises nor falls.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from whisper_npu.decoding.levels import may_be_speech
from whisper_npu.decoding.protocols import Features
from whisper_npu.ops.arrays import F32, I16


@dataclass(frozen=True)
class Detection:
    """A language, its probability, and those of all languages in the window that it is from."""

    language: str
    probability: float
    probabilities: Mapping[str, float]


def detect_file_language(
    features: Features,
    probabilities: Callable[[F32 | I16], Mapping[str, float]],
    longest: int,
    segments: int,
    threshold: float,
) -> Detection:
    """The language of the first of ``segments`` windows in which one is likelier than
    ``threshold``, else the one that is the likeliest in most of them.

    Windows have ``longest`` frames, and those that hold no speech do not count, unless none does.
    ``probabilities`` gives those of the languages in a window [n_mels, N_FRAMES]. Of languages with
    as many windows it is the one that was found first.
    """
    found: list[Detection] = []
    # More than any file has may be asked for, and more than islice takes.
    for window in islice(_windows_with_speech(features, longest), min(segments, sys.maxsize)):
        by_code = probabilities(window)
        language = max(by_code, key=by_code.__getitem__)
        found.append(Detection(language, by_code[language], by_code))
        if by_code[language] > threshold:
            return found[-1]
    ((most, _),) = Counter(each.language for each in found).most_common(1)
    return max((each for each in found if each.language == most), key=lambda d: d.probability)


def _windows_with_speech(features: Features, longest: int) -> Iterator[F32 | I16]:
    """Windows that hold speech, from the start of the file on; the first one if there are none."""
    opening = features.full_window(0)
    if features.n_frames <= longest:
        yield opening
        return
    any_speech = False
    for start in range(0, features.n_frames, longest):
        window = features.full_window(start) if start else opening
        if may_be_speech(window[:, : min(longest, features.n_frames - start)]):
            any_speech = True
            yield window
    if not any_speech:
        yield opening
