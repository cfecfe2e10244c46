"""Folders that transformers loads: the same logits from the same folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

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
from whisper_npu.convert.kept import converted_folder
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


def network(**shape: int) -> Any:
    """A network of transformers, of another shape than ``write_folder`` has."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(0)
    end = 261
    config = {
        "d_model": 16,
        "vocab_size": 400,
        "num_mel_bins": 5,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "max_source_positions": 6,
        "max_target_positions": 8,
        "decoder_start_token_id": end + 1,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), end),
        **shape,
    }
    made = WhisperForConditionalGeneration(WhisperConfig(**config)).eval()
    for name, parameter in made.named_parameters():
        if "embed_positions" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return made


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "shape",
    [
        {"encoder_layers": 4, "decoder_layers": 2},  # distil-whisper, turbo
        {"encoder_layers": 1, "decoder_layers": 3, "num_mel_bins": 128},
        {"encoder_attention_heads": 4, "max_target_positions": 20, "vocab_size": 448},
    ],
)
def test_what_transformers_saves(tmp_path: Path, shape: dict[str, int], dtype: str) -> None:
    import torch

    network(**shape).to(getattr(torch, dtype)).save_pretrained(tmp_path / "saved")
    np.testing.assert_allclose(logits(tmp_path / "saved"), reference(tmp_path / "saved"), atol=5e-5)


def test_an_embedding_that_was_made_larger(tmp_path: Path) -> None:
    made = network()
    made.resize_token_embeddings(411, pad_to_multiple_of=8)
    made.save_pretrained(tmp_path / "saved")
    found = logits(tmp_path / "saved")
    assert found.shape == (3, 416)
    np.testing.assert_allclose(found, reference(tmp_path / "saved"), atol=5e-5)


@pytest.mark.parametrize("prefix", ["model.", ""])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("shards", [1, 2])
def test_pytorch_model_bin(
    plain: Path, tmp_path: Path, prefix: str, dtype: str, shards: int
) -> None:
    """As torch saves it: the output layer shares the storage of the embedding."""
    import torch
    from transformers import WhisperForConditionalGeneration

    folder = tmp_path / "model"
    made = WhisperForConditionalGeneration.from_pretrained(plain).to(getattr(torch, dtype))
    shutil.copytree(plain, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    # Parameters, as of a network that is trained, and not only their numbers.
    state = made.state_dict(keep_vars=shards > 1)
    if not prefix:
        state = made.model.state_dict()
    names = list(state)
    places = {name: f"pytorch_model-{i % shards}.bin" for i, name in enumerate(names)}
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        for file in set(places.values()):
            torch.save({n: t for n, t in state.items() if places[n] == file}, folder / file)
        index = json.dumps({"metadata": {}, "weight_map": places})
        (folder / "pytorch_model.bin.index.json").write_text(index)
    with pytest.warns(UserWarning, match="it is converted to"):
        found = logits(converted_folder(folder))
    np.testing.assert_allclose(found, reference(folder), atol=5e-5)


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
