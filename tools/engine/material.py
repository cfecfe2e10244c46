"""Recordings of real speech, each of other content, as files."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from tests.support.real.data import DTYPES, MODELS, converted
from tests.support.real.speech import PAUSE, RATE, Recording, joined, prompts, sentences

LANGUAGE = "en"
SHORT_SECONDS = 10.0


@dataclass(frozen=True)
class Material:
    """Files of speech: some short ones, and a long one."""

    short: tuple[Path, ...]
    long: Path

    @property
    def seconds(self) -> float:
        """Of all of them together."""
        return sum(float(soundfile.info(path).duration) for path in (*self.short, self.long))


def model_folder(model: str, precision: str) -> Path:
    """The folder of a model: one of ``MODELS``, or a folder itself."""
    if model in MODELS:
        return converted(model, precision if precision in DTYPES else "float16")
    if not Path(model).is_dir():
        raise ValueError(f"{model} is neither a folder nor one of {', '.join(MODELS)}")
    return Path(model)


def write_material(folder: Path, n_short: int, minutes: float) -> Material:
    """Write recordings of ``SHORT_SECONDS`` and one of so many minutes.

    They are sentences and prompts with pauses between them, and silence at the end; what follows
    each other does so nowhere else.
    """
    parts = _parts()
    write = partial(_write, parts, folder)
    short = tuple(write(f"short-{i}", SHORT_SECONDS) for i in range(n_short))
    return Material(short, write("long", 60 * minutes))


def _parts() -> Iterator[Recording]:
    """All that is said, in one order after the other."""
    speech = [*sentences(), *prompts(LANGUAGE)]
    order = random.Random(0)
    while True:
        yield from speech
        order.shuffle(speech)


def _write(parts: Iterator[Recording], folder: Path, name: str, seconds: float) -> Path:
    """Write what fits into so many seconds of what comes next, and silence."""
    chosen: list[Recording] = []
    length = 0.0
    for part in parts:
        longer = length + part.seconds + (PAUSE if chosen else 0)
        if longer > seconds:
            # One that is longer than all of the recording is left out.
            if chosen:
                break
            continue
        chosen.append(part)
        length = longer
    samples = joined(name, chosen).samples()[: round(seconds * RATE)]
    silence = np.zeros(round(seconds * RATE) - len(samples), np.float32)
    path = folder / f"{name}.wav"
    whole = np.concatenate([samples, silence])
    soundfile.write(path, np.rint(whole * 32767).astype("<i2"), RATE)
    return path
