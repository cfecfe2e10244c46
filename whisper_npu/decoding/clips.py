"""The clips of a file: those that were asked for, or parts that end in pauses.

A clip is its start and end in mel frames. Pauses are found in the spectrogram and by nothing else,
so that the same file is always cut at the same places.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from whisper_npu.audio import FRAMES_PER_SECOND
from whisper_npu.decoding.levels import levels
from whisper_npu.decoding.options import TranscribeOptions
from whisper_npu.decoding.protocols import Features

Clip = tuple[int, int]

# Frames that are quiet together: pauses between words are shorter than those between sentences.
_PAUSE = 40


def find_clips(features: Features, options: TranscribeOptions, longest: int) -> Iterator[Clip]:
    """The clips to transcribe, within the audio, in the order in which they were given.

    The last one of ``clip_timestamps`` may have no end: it goes to the end of the file, and with a
    ``batch_size`` it is cut into clips of at most ``longest`` frames, which can be decoded side by
    side.
    """
    points = [round(s * FRAMES_PER_SECOND) for s in options.clip_seconds()] or [0]
    if (latest := max(points[::2])) >= max(features.n_frames, 1):
        warnings.warn(
            f"clip_timestamps: a clip begins at {latest / FRAMES_PER_SECOND:g} s, "
            f"and the audio ends at {features.duration:.1f} s",
            stacklevel=2,
        )
    for start, end in zip(points[::2], points[1::2], strict=False):
        yield start, min(end, features.n_frames)
    if len(points) % 2 == 0:
        return
    if options.batch_size is None:
        yield points[-1], features.n_frames
    else:
        yield from cut_at_pauses(features, points[-1], longest)


def cut_at_pauses(features: Features, start: int, longest: int) -> Iterator[Clip]:
    """The audio from frame ``start`` on in clips of at most ``longest`` frames.

    Each ends at the quietest place of its last third, the latest of several, and the last one is
    long enough to be decoded alone.
    """
    last_cut = features.n_frames - shortest_window(longest)
    while features.n_frames - start > longest:
        end = _quietest(features, start + longest * 2 // 3, min(start + longest, last_cut))
        yield start, end
        start = end
    if start < features.n_frames:
        yield start, features.n_frames


def shortest_window(longest: int) -> int:
    """The frames that are decoded alone at least, where windows have ``longest``: 1.5 s of 30.

    Of less a model knows too little, and invents.
    """
    return longest // 20


def _quietest(features: Features, start: int, end: int) -> int:
    """The middle of the ``_PAUSE`` frames between ``start`` and ``end`` whose levels, the mean over
    all mel bands, add up to the least."""
    size = end - start
    pause = max(1, min(_PAUSE, size // 2))
    sums = sliding_window_view(levels(features.window(start, size)[:, :size]), pause).sum(axis=-1)
    latest = len(sums) - 1 - int(np.argmin(sums[::-1]))
    return start + latest + pause // 2
