"""Test signals that are the same on every machine."""

from __future__ import annotations

import numpy as np


def noise(n: int, seed: int = 0, level: float = 0.1) -> np.ndarray:
    """White noise; RandomState's stream is fixed for all versions of NumPy."""
    return (level * np.random.RandomState(seed).standard_normal(n)).astype(np.float32)


def chirp(seconds: float, rate: int = 16000, low: float = 50.0, high: float = 7900.0) -> np.ndarray:
    t = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * (low * t + (high - low) / (2 * seconds) * t * t)
    return (0.5 * np.sin(phase)).astype(np.float32)


def tone(seconds: float, rate: int = 16000, frequency: float = 440.0) -> np.ndarray:
    t = np.arange(int(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * frequency * t)).astype(np.float32)


def front_end_signal() -> np.ndarray:
    """Loud and faint noise, a chirp, a tone and silence, 0.1 s each, and a bit of a frame."""
    parts = [noise(1600), noise(1600, 1, 1e-3), chirp(0.1), tone(0.1), np.zeros(1677)]
    return np.concatenate(parts).astype(np.float32)
