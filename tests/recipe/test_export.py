"""What the recipe writes beside the weights, without any training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from whisper_npu.model.dims import dimensions_from_config
from whisper_npu.text.tokenizer import Tokenizer

MODEL = Path(__file__).parents[2] / "weights" / "demo"

pytestmark = pytest.mark.reference


def test_sizes_and_generation_config_are_those_of_the_model() -> None:
    from weights.demo.recipe import export, model

    config = json.loads((MODEL / "config.json").read_text())
    assert dimensions_from_config(config, "config.json") == model.DIMS
    shipped = json.loads((MODEL / "generation_config.json").read_text())
    tokenizer = Tokenizer.from_dir(MODEL, model.DIMS.n_vocab, {})
    heads = [tuple(head) for head in shipped["alignment_heads"]]
    assert export.generation_config(tokenizer, heads) == shipped
