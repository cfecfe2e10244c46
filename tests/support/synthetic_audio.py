"""Generated audio for tests and measurements: seeded, and the same samples on every machine.

    python -m tests.support.synthetic_audio FILE.wav MINUTES

Samples are those of a 16-bit file: rounding hides what the last bits of a sine do elsewhere.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000
FORMANTS = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480))  # Hz


def silence(seconds: float) -> np.ndarray:
    """Zeros, float32 [seconds * 16000]."""
    return np.zeros(round(seconds * RATE), np.float32)


def noise(seconds: float, seed: int, level: float = 0.1) -> np.ndarray:
    """White noise, float32 [seconds * 16000] within -level to level."""
    values = np.random.RandomState(seed).random_sample(round(seconds * RATE))
    return _rounded((2 * values - 1) * level)


def recorded_speech(seconds: float, seed: int) -> np.ndarray:
    """As ``speech``, over the noise of a room: nothing is as faint as float32's rounding."""
    return speech(seconds, seed) + noise(seconds, seed, level=0.03)


def speech(seconds: float, seed: int) -> np.ndarray:
    """Bursts of vowels and hisses with pauses, float32 [seconds * 16000] within -1 to 1."""
    total = round(seconds * RATE)
    parts: list[np.ndarray] = []
    for part in speech_parts(seed):
        parts.append(part)
        total -= part.size
        if total <= 0:
            break
    return np.concatenate(parts)[: round(seconds * RATE)]


def write_recording(path: Path, minutes: float) -> None:
    """A wav file of speech, a block at a time; ten minutes of it over and over."""
    seeds = range(min(20, math.ceil(2 * minutes)))
    block = np.concatenate([recorded_speech(30, seed) for seed in seeds])
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        left = round(minutes * 60 * RATE)
        while left > 0:
            file.write(block[:left])
            left -= block.size


def speech_parts(seed: int) -> Iterator[np.ndarray]:
    """Syllables and pauses without end, each float32 [n] of at most two seconds."""
    generator = np.random.RandomState(seed)
    pitch = 90 + 120 * generator.random_sample()
    while True:
        for _ in range(generator.randint(3, 14)):
            yield _syllable(generator, pitch * (0.9 + 0.2 * generator.random_sample()))
        pause = 0.2 + 0.5 * generator.random_sample()
        if generator.random_sample() < 0.2:
            pause += 1.2
        yield silence(pause)


def _syllable(generator: np.random.RandomState, pitch: float) -> np.ndarray:
    n = round(RATE * (0.08 + 0.2 * generator.random_sample()))
    time = np.arange(n) / RATE
    # A vowel: the harmonics of the pitch, each as loud as the formants near it make it.
    formants = FORMANTS[generator.randint(len(FORMANTS))]
    vowel = np.zeros(n)
    for harmonic in range(1, int(4000 / pitch)):
        distance = min(abs(harmonic * pitch - formant) for formant in formants)
        vowel += np.sin(2 * np.pi * pitch * harmonic * time) / (1 + (distance / 80) ** 2)
    onset = np.minimum(1, np.minimum(np.arange(n), np.arange(n)[::-1]) / (0.02 * RATE))
    # A consonant: the hiss of its first third.
    hiss = (generator.random_sample(n) - 0.5) * (np.arange(n) < n // 3)
    loudness = 0.1 + 0.2 * generator.random_sample()
    return _rounded(loudness * (vowel / 3 * onset + 0.3 * hiss))


def _rounded(samples: np.ndarray) -> np.ndarray:
    integers = np.clip(np.round(samples * 32768), -32768, 32767)
    return (integers / 32768).astype(np.float32)


if __name__ == "__main__":
    write_recording(Path(sys.argv[1]), float(sys.argv[2]))
