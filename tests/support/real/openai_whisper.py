"""openai-whisper on the published weights, with its own loader, vocabulary and alignment heads.

Its results are kept in the cache, keyed by all that decides them; only the first run needs torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.support.real.data import cache_folder, file_key, openai_pt
from whisper_npu.decoding import sampling
from whisper_npu.files.whole import replacing

if TYPE_CHECKING:
    from whisper import Whisper

VERSION = "20250625"
# Where both sides' random numbers come from.
_SAMPLING = (Path(__file__).parents[1] / "reference" / "sampling.py", Path(sampling.__file__))


@dataclass(frozen=True)
class Reference:
    """A result, and how far its narrowest decision was from another one."""

    result: dict[str, Any]
    margin: float


def transcribe(model: str, samples: np.ndarray, options: Mapping[str, Any], seed: int) -> Reference:
    """What ``whisper.transcribe`` gives in float32 for one of ``data.MODELS``.

    ``samples`` are float32 [n] at 16 kHz, ``options`` keywords of ``whisper.transcribe``.
    """
    kept = kept_reference(model, samples, options, seed)
    if kept is not None:
        return kept
    from tests.support.reference.transcribe import transcribe_with

    assert version("openai-whisper") == VERSION
    result, margins = transcribe_with(_load(model), samples, options, seed)
    reference = Reference(result, margins.narrowest())
    path = _path(model, samples, options, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new:
        new.write_text(json.dumps(asdict(reference)), encoding="utf-8")
    return reference


def kept_reference(
    model: str, samples: np.ndarray, options: Mapping[str, Any], seed: int
) -> Reference | None:
    """What ``transcribe`` gave before; None if the cache has none."""
    path = _path(model, samples, options, seed)
    return Reference(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def _path(model: str, samples: np.ndarray, options: Mapping[str, Any], seed: int) -> Path:
    digest = hashlib.sha256(samples.tobytes())
    digest.update(json.dumps([dict(options), seed], sort_keys=True).encode())
    key = f"{file_key(openai_pt(model), *_SAMPLING)}-{digest.hexdigest()[:24]}"
    return cache_folder() / f"openai-whisper-{VERSION}" / f"{model}-{key}.json"


@lru_cache(maxsize=1)
def _load(model: str) -> Whisper:
    import whisper

    loaded = whisper.load_model(str(openai_pt(model)), device="cpu")
    # By name it would know them.
    loaded.set_alignment_heads(whisper._ALIGNMENT_HEADS[model])
    return loaded
