"""What decoding needs of the runtime and the audio front end, so that it imports neither."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from whisper_npu.model.dims import ModelDimensions
from whisper_npu.ops.arrays import F32, I16, I64
from whisper_npu.ops.probabilities import Probabilities


class Aligner(Protocol):
    """Aligns text to one window."""

    @property
    def probabilities(self) -> Probabilities:
        """How probabilities are computed of the logits."""
        ...

    def align(self, tokens: I64, heads: Sequence[tuple[int, int]]) -> tuple[F32, F32]:
        # [n] -> [n, n_vocab], [len(heads), n, n_audio_ctx]
        """Logits of all tokens and the cross-attention scores, before softmax, of some heads."""
        ...


class Session(Aligner, Protocol):
    """Windows in the caches of a decoder: ``group`` sequences for each of ``n_audio`` windows."""

    @property
    def n_audio(self) -> int: ...

    @property
    def group(self) -> int: ...

    def prefill(self, tokens: I64, rows: Sequence[int]) -> F32:
        # [n_audio, n], rows of n -> [n_audio, len(rows), n_vocab]
        """Start every sequence of a group with its window's tokens."""
        ...

    def step(self, tokens: I64) -> F32:  # [n_audio * group] -> [n_audio * group, n_vocab]
        """Feed one more token to every sequence."""
        ...

    def likeliest(self, logits: F32, k: int) -> tuple[I64, F32]:
        # [n_audio * group, n_vocab], k -> [n_audio * group, k], [n_audio * group, k]
        """The ``k`` likeliest tokens of each sequence, best first, and their log-probabilities."""
        ...

    def reorder(self, source: I64) -> None:  # [n_audio * group]
        """Sequence i goes on from the cache of sequence ``source[i]``."""
        ...

    def keep(self, windows: I64) -> None:
        """Go on with some of the windows, in this order, and without the others."""
        ...

    def join(self, other: Any) -> None:
        """Go on with the windows of another session as well, behind those that are here."""
        ...


class Counts(Protocol):
    """What was run, and how long it took."""

    def add(self, other: Any, share: float = 1.0) -> None:
        """Count what others have counted as well, with this share of the time."""
        ...


class Halt(Protocol):
    """Where a run is asked to end before its end."""

    asked: bool


class Whisper(Protocol):
    """The network."""

    @property
    def dims(self) -> ModelDimensions: ...

    @property
    def probabilities(self) -> Probabilities:
        """How probabilities are computed of the logits."""
        ...

    @property
    def halt(self) -> Halt:
        """What is run meanwhile ends with an exception if it is asked to."""
        ...

    def new_counts(self) -> Counts:
        """Counts of nothing."""
        ...

    def counted(self, counts: Any) -> AbstractContextManager[None]:
        """Count what is run meanwhile there."""
        ...

    def encode(self, features: F32 | I16) -> F32:
        # [b, n_mels, 2 * n_audio_ctx] -> [b, n_audio_ctx, n_audio_state]
        ...

    def decoder(self, states: F32 | Sequence[F32], group: int = 1) -> Session:
        # n_audio of [n_audio_ctx, n_audio_state]
        ...


class Features(Protocol):
    """The log-mel spectrogram of one file.

    Its numbers are floats, or integers that stand for themselves times 2**-13.
    """

    @property
    def n_frames(self) -> int: ...

    @property
    def duration(self) -> float:
        """Length of the audio in seconds."""
        ...

    def window(self, seek: int, size: int | None = None) -> F32 | I16:  # -> [n_mels, N_FRAMES]
        """The model's input for the frames from ``seek`` on, ``size`` of them at most."""
        ...

    def full_window(self, seek: int) -> F32 | I16:  # -> [n_mels, N_FRAMES]
        """30 s from frame ``seek`` on, with the silence that follows the audio."""
        ...
