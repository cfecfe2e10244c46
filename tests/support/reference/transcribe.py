"""What ``whisper.transcribe`` gives, with our random numbers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from whisper import Whisper

from tests.support.reference.adapter import load_reference, vocabulary_of
from tests.support.reference.sampling import Margins, seeded_sampling


def transcribe(
    folder: Path, samples: np.ndarray, options: Mapping[str, Any], seed: int
) -> tuple[dict[str, Any], Margins]:
    """What ``transcribe_with`` gives for the model and the vocabulary of a folder."""
    with vocabulary_of(folder):
        return transcribe_with(load_reference(folder), samples, options, seed)


def transcribe_with(
    model: Whisper, samples: np.ndarray, options: Mapping[str, Any], seed: int
) -> tuple[dict[str, Any], Margins]:
    """The result as JSON would hold it, and how narrow its decisions were."""
    with seeded_sampling(seed) as margins, warnings.catch_warnings():
        # It warns that words of translations may be unreliable.
        warnings.simplefilter("ignore")
        result = model.transcribe(samples, fp16=False, **options)
    return json.loads(json.dumps(result, default=float)), margins
