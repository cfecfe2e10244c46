"""A small model with seeded random weights, in memory and on disk."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.unit import transcriber_jobs
from whisper_npu.model.checkpoint import Checkpoint
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.model.weight_shapes import weight_specification

SMALL = ModelDimensions(
    n_mels=80,
    n_audio_ctx=30,
    n_audio_state=24,
    n_audio_head=3,
    n_audio_layer=2,
    n_vocab=50,
    n_text_ctx=16,
    n_text_state=24,
    n_text_head=2,
    n_text_layer=3,
)

SMALL_CONFIG = {
    "num_mel_bins": 80,
    "max_source_positions": 30,
    "d_model": 24,
    "encoder_attention_heads": 3,
    "encoder_layers": 2,
    "vocab_size": 50,
    "max_target_positions": 16,
    "decoder_attention_heads": 2,
    "decoder_layers": 3,
}


def random_weights(dims: ModelDimensions, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.RandomState(seed)
    return {
        name: (0.3 * random.standard_normal(shape)).astype(np.float32)
        for name, shape in weight_specification(dims).items()
    }


@pytest.fixture
def small_checkpoint() -> Checkpoint:
    return Checkpoint(Path("small"), SMALL, SMALL_CONFIG, {}, random_weights(SMALL))


@pytest.fixture
def small_directory(tmp_path: Path) -> Path:
    """config.json and model.safetensors of the small model (no tokenizer)."""
    (tmp_path / "config.json").write_text(json.dumps(SMALL_CONFIG))
    save_file(random_weights(SMALL), tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture(autouse=True)
def _threads_before() -> None:
    """What a test looks for at its end are threads of its own."""
    transcriber_jobs.THREADS_BEFORE = set(threading.enumerate())
