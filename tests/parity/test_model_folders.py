"""Folders that transformers loads: the same logits from the same folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.model_folders import (
    OF_TRANSFORMERS,
    PROMPT,
    copy_with,
    inputs,
    logits,
    write_folder,
)
from whisper_npu.convert import convert

pytestmark = pytest.mark.reference


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "model"
    write_folder(folder)
    return folder


def reference(folder: Path) -> np.ndarray:  # -> [3, n_vocab]
    import torch
    from transformers import WhisperForConditionalGeneration

    network = WhisperForConditionalGeneration.from_pretrained(folder).float().eval()
    features = inputs(network.config.num_mel_bins, 2 * network.config.max_source_positions)
    with torch.no_grad():
        found = network(
            input_features=torch.from_numpy(features), decoder_input_ids=torch.tensor([PROMPT])
        )
    return found.logits[0].numpy()


@pytest.mark.filterwarnings("ignore:.* are no weights of a Whisper")
@pytest.mark.parametrize("kind", OF_TRANSFORMERS)
def test_the_same_logits(plain: Path, tmp_path: Path, kind: str) -> None:
    folder = copy_with(plain, tmp_path / "model", OF_TRANSFORMERS[kind])
    expected = reference(folder)
    np.testing.assert_allclose(logits(folder), expected, atol=2e-5)
    convert(folder, tmp_path / "converted", dtype="float32")
    np.testing.assert_array_equal(logits(tmp_path / "converted"), logits(folder))
