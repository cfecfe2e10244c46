"""What the writers of other formats take from a Hugging Face directory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from whisper_npu.model.dims import ModelDimensions, dimensions_from_config
from whisper_npu.text.tokenizer_json import token_bytes


@dataclass(frozen=True)
class SeededModel:
    """A float32 checkpoint in memory. ``tokens`` are all tokens by id, as tokenizer.json spells
    them; the first ``n_text`` are text."""

    dims: ModelDimensions
    weights: dict[str, np.ndarray]
    generation: dict[str, Any]
    tokens: list[str]
    n_text: int

    @property
    def text_tokens(self) -> list[bytes]:
        return [token_bytes(token, Path("tokenizer.json")) for token in self.tokens[: self.n_text]]


def load_seeded(folder: Path) -> SeededModel:
    """The checkpoint of a model folder that has its weights as floats and in one file."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    ids = dict(tokenizer["model"]["vocab"])
    n_text = len(ids)
    ids.update((token["content"], token["id"]) for token in tokenizer["added_tokens"])
    return SeededModel(
        dims=dimensions_from_config(config, str(folder)),
        weights={
            name: array.astype(np.float32, copy=False)
            for name, array in load_file(folder / "model.safetensors").items()
        },
        generation=json.loads((folder / "generation_config.json").read_text(encoding="utf-8")),
        tokens=sorted(ids, key=ids.__getitem__),
        n_text=n_text,
    )
