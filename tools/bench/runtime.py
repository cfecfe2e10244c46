"""The protocol of a runtime, as one process of the benchmark runs it."""

from __future__ import annotations

import wave
from abc import ABC, abstractmethod
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RATE = 16000
BEAM_SIZE = 5
# The window is English speech, transcribed without timestamps.
LANGUAGE = "en"


class Unsupported(Exception):
    """A runtime cannot do what is asked for."""


class Runtime(ABC):
    """A loaded model that decodes a fixed number of tokens for each window.

    Nothing is suppressed and every search starts from the same prompt: with the weights of
    ``models.py`` no window ends early. ``Features`` and ``States`` are whatever the runtime itself
    passes from one phase to the next; samples are mono float32 at 16 kHz.
    """

    @abstractmethod
    def version(self) -> str:
        """Name and version of what runs."""

    @abstractmethod
    def features(self, values: array[float], n_mels: int) -> Any:
        """Log-mel features [n_mels, 3000] that were computed before, in the runtime's own form."""

    @abstractmethod
    def mel(self, samples: array[float]) -> Any:
        """The features of a window of 30 s."""

    @abstractmethod
    def encode(self, windows: Sequence[Any]) -> Any:
        """Encoder states of one or several windows' features."""

    @abstractmethod
    def decode(self, states: Any, n_tokens: int, beam_size: int = 1) -> list[list[int]]:
        """Tokens after the prompt of each window of ``states``, ``n_tokens`` each."""

    def window(self, samples: array[float], n_tokens: int) -> list[list[int]]:
        """From samples to tokens."""
        return self.batch([samples], n_tokens)

    def batch(self, windows: Sequence[array[float]], n_tokens: int) -> list[list[int]]:
        """As ``window``, for several windows at a time."""
        return self.decode(self.encode([self.mel(samples) for samples in windows]), n_tokens)

    def seconds_of(self, stage: str, elapsed: float) -> float:
        """The seconds that count of those that a call took: all of them, unless the call could
        not leave out what belongs to another stage."""
        return elapsed

    def read(self, path: Path) -> Any:
        """The samples of a wav file of 16 bits, mono, as a NumPy array of float32."""
        import numpy as np

        with wave.open(str(path)) as file:
            integers = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        return integers.astype(np.float32) / 32768

    def prepare_file(self, path: Path) -> Any:
        """What ``file`` is given for a wav file: its samples, unless a runtime reads it itself."""
        return self.read(path)

    @abstractmethod
    def file(self, recording: Any, n_tokens: int, batch_size: int) -> int:
        """Transcribe a recording with the runtime's own loop over windows.

        ``batch_size`` windows at a time where the runtime can, none conditioned on another.
        Returns the number of tokens.
        """

    @abstractmethod
    def transcribe(
        self, path: Path, language: str, batch_size: int = 1, fallback: bool = True
    ) -> str:
        """The text of a wav file, by the runtime's own transcription: greedy, no window
        conditioned on the text of another, everything else as it is by default.

        With ``fallback`` at the runtime's own temperatures, without it only at 0.
        """

    def chosen(self, path: Path, language: str) -> tuple[list[int], list[int]]:
        """The prompt of the first window of a wav file without timestamps, and the text tokens
        that are the likeliest one after the other, up to the end of text."""
        raise Unsupported("the tokens of a text are not to be had")

    def forced(self, path: Path, prompt: list[int], text: list[int]) -> Any:
        """Logits float32 [len(text) + 1, n_vocab] of the first window of a wav file: after the
        prompt, and after each token of ``text``. No rule is applied."""
        raise Unsupported("logits are not to be had")
