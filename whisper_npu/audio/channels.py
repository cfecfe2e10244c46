"""Which sound of a recording is meant: the mix of its channels, one of them, or each."""

from __future__ import annotations

import warnings
from typing import Protocol

import numpy as np

from whisper_npu.audio.blocks import DecodedBlock
from whisper_npu.audio.downmix import mix_to_mono
from whisper_npu.errors import AudioError
from whisper_npu.ops.arrays import F32
from whisper_npu.values import CHANNEL_NAMES

# The power of a mix over that of its channels: below this most of the sound is lost. Noise in two
# channels has 0.5; noise in one surround of 7.1, the least, has 0.1.
_CANCELLED = 0.02


def channel_labels(n: int) -> list[str]:
    """What each of ``n`` channels is called as a speaker."""
    return list(CHANNEL_NAMES) if n == 2 else [f"channel {i}" for i in range(n)]


class Pick(Protocol):
    """Takes what is meant out of the blocks of a recording, one after the other."""

    def __call__(self, block: DecodedBlock) -> F32:  # -> [n] or [n, channels]
        ...

    def warn(self) -> None:
        """At the end: warn of what was lost."""
        ...


class Mix:
    """The mix of all channels. Warns if they cancel each other."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._power, self._power_of_channels = 0.0, 0.0

    def __call__(self, block: DecodedBlock) -> F32:  # -> [n]
        samples = block.samples
        mono = mix_to_mono(samples, block.layout)
        n_channels = samples.shape[1]
        if n_channels > 1:
            values = samples.ravel(order="K")
            self._power += float(np.dot(mono, mono))
            self._power_of_channels += float(np.dot(values, values)) / n_channels
        return mono

    def warn(self) -> None:
        if self._power < _CANCELLED * self._power_of_channels:
            warnings.warn(
                f"{self._name}: mixed to one, its channels cancel each other (one may be "
                "inverted); transcribe one of them with --channel left, or all with --channel each",
                stacklevel=2,
            )


class One:
    """One channel. Where the number of channels changes and it is missing, there is silence."""

    def __init__(self, channel: int | str, name: str) -> None:
        self._channel, self._name = channel, name
        self._index = CHANNEL_NAMES.get(channel, 0) if isinstance(channel, str) else channel
        self._found = self._missing = False

    def __call__(self, block: DecodedBlock) -> F32:  # -> [n]
        samples = block.samples
        n_channels = samples.shape[1]
        if self._index < n_channels:
            self._found = True
            return samples[:, self._index]
        if not self._found:
            held = "1 channel" if n_channels == 1 else f"{n_channels} channels"
            raise AudioError(
                f"{self._name}: has {held}, numbered from 0; there is no channel {self._channel}"
            )
        self._missing = True
        return np.zeros(len(samples), np.float32)

    def warn(self) -> None:
        if self._missing:
            warnings.warn(
                f"{self._name}: parts of it have no channel {self._channel}; they are silent",
                stacklevel=2,
            )


class Each:
    """All channels, as many as there are at the start."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._n_channels = 0
        self._changed = False

    def __call__(self, block: DecodedBlock) -> F32:  # -> [n, channels]
        n_channels = block.samples.shape[1]
        self._n_channels = self._n_channels or n_channels
        if n_channels == self._n_channels:
            return block.samples
        self._changed = True
        samples = np.zeros((len(block.samples), self._n_channels), np.float32)
        kept = min(n_channels, self._n_channels)
        samples[:, :kept] = block.samples[:, :kept]
        return samples

    def warn(self) -> None:
        if self._changed:
            warnings.warn(
                f"{self._name}: its number of channels changes; only the {self._n_channels} that "
                "it begins with are transcribed",
                stacklevel=2,
            )
