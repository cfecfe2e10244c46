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
    split_tokenizer,
    write_folder,
)
from whisper_npu.convert import convert
from whisper_npu.model.checkpoint import load_checkpoint
from whisper_npu.text.tokenizer import Tokenizer

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


@pytest.mark.parametrize("described", [False, True])
def test_a_tokenizer_in_parts(plain: Path, tmp_path: Path, described: bool) -> None:
    from transformers import WhisperTokenizer

    folder = copy_with(plain, tmp_path / "model", dict)
    split_tokenizer(folder, described)
    theirs = WhisperTokenizer.from_pretrained(folder)
    n_vocab = load_checkpoint(folder).dims.n_vocab
    ours = Tokenizer.from_dir(folder, n_vocab, {})
    for name, id in ours.vocabulary.specials.items():
        assert theirs.convert_tokens_to_ids(name) == id
    assert theirs.convert_tokens_to_ids("<|0.00|>") == ours.timestamp_begin
    for text in (" the tha aaaa, 7", "Ünï 語\n\n  x"):
        assert ours.encode(text) == theirs(text, add_special_tokens=False).input_ids
