"""openai-whisper running a Hugging Face directory, with the directory's own vocabulary.

openai-whisper knows two vocabularies and reads everything about a model's languages off the size
of its vocabulary. Here both come from the directory, so that small vocabularies work too.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tiktoken
import torch
from safetensors.torch import load_file
from whisper.model import ModelDimensions, Whisper
from whisper.tokenizer import LANGUAGES, TO_LANGUAGE_CODE, Tokenizer

from tests.support.vocabulary import BYTE_CHARACTERS
from whisper_npu.convert.openai_names import openai_name

GPT2_SPLIT = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # openai's
)


class ReferenceModel(Whisper):
    """openai-whisper's model, told what its vocabulary holds."""

    vocabulary_is_multilingual = True
    vocabulary_languages = 99

    @property
    def is_multilingual(self) -> bool:
        return self.vocabulary_is_multilingual

    @property
    def num_languages(self) -> int:
        return self.vocabulary_languages


def reference_model(dims: Any, weights: Mapping[str, np.ndarray | torch.Tensor]) -> ReferenceModel:
    """The model of ``dims`` (any object with openai's ten fields) and Hugging Face weights."""
    names = ModelDimensions.__dataclass_fields__
    model = ReferenceModel(ModelDimensions(**{name: getattr(dims, name) for name in names}))
    state = {openai_name(name): torch.as_tensor(w).float() for name, w in weights.items()}
    model.load_state_dict(state)
    return model.eval()


def set_alignment_heads(model: Whisper, heads: Sequence[Sequence[int]]) -> None:
    """Use these (layer, head) pairs for word timestamps."""
    mask = torch.zeros(model.dims.n_text_layer, model.dims.n_text_head, dtype=torch.bool)
    for layer, head in heads:
        mask[layer, head] = True
    model.register_buffer("alignment_heads", mask.to_sparse(), persistent=False)


def load_reference(folder: Path) -> ReferenceModel:
    """The model of a Hugging Face directory."""
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights |= load_file(file)
    config = _read(folder / "config.json")
    generation = _read(folder / "generation_config.json")
    dims = ModelDimensions(
        n_mels=config["num_mel_bins"],
        n_audio_ctx=config["max_source_positions"],
        n_audio_state=config["d_model"],
        n_audio_head=config["encoder_attention_heads"],
        n_audio_layer=config["encoder_layers"],
        n_vocab=config["vocab_size"],
        n_text_ctx=config["max_target_positions"],
        n_text_state=config["d_model"],
        n_text_head=config["decoder_attention_heads"],
        n_text_layer=config["decoder_layers"],
    )
    model = reference_model(dims, weights)
    model.vocabulary_is_multilingual = generation["is_multilingual"]
    model.vocabulary_languages = len(_language_tokens(_added_tokens(folder)))
    set_alignment_heads(model, generation["alignment_heads"])
    return model


def save_openai(folder: Path, path: Path) -> None:
    """Write a directory's model in openai-whisper's own format (a ``.pt`` file)."""
    model = load_reference(folder)
    state = {"dims": vars(model.dims), "model_state_dict": model.state_dict()}
    torch.save(state, path)


def encoding(folder: Path) -> tiktoken.Encoding:
    """The vocabulary of a directory's tokenizer.json, as openai-whisper would hold it."""
    bytes_of = {character: byte for byte, character in BYTE_CHARACTERS.items()}
    vocab = _read(folder / "tokenizer.json")["model"]["vocab"]
    ranks = {bytes(bytes_of[c] for c in token): rank for token, rank in vocab.items()}
    specials = _added_tokens(folder)
    return tiktoken.Encoding(
        name=folder.name,
        pat_str=GPT2_SPLIT,
        mergeable_ranks=ranks,
        special_tokens=specials,
        explicit_n_vocab=len(ranks) + len(specials),
    )


@contextmanager
def vocabulary_of(folder: Path) -> Iterator[None]:
    """Within it, openai-whisper's functions use the vocabulary of a directory."""
    own = encoding(folder)
    n_languages = len(_language_tokens(_added_tokens(folder)))
    generation = _read(folder / "generation_config.json")
    suppressed = tuple(generation["suppress_tokens"])

    def get_tokenizer(
        multilingual: bool,
        *,
        num_languages: int = n_languages,
        language: str | None = None,
        task: str | None = None,
    ) -> Tokenizer:
        if language is not None and language not in LANGUAGES:
            language = TO_LANGUAGE_CODE[language.lower()]
        tokenizer = Tokenizer(
            own,
            num_languages,
            (language or "en") if multilingual else None,
            (task or "transcribe") if multilingual else None,
        )
        # The set that "-1" stands for, which for small vocabularies is not openai's.
        tokenizer.__dict__["non_speech_tokens"] = suppressed
        return tokenizer

    with ExitStack() as stack:
        for name in ("tokenizer", "decoding", "transcribe"):
            # Imported by name: the package's attribute "transcribe" is the function.
            module = importlib.import_module(f"whisper.{name}")
            stack.enter_context(mock.patch.object(module, "get_tokenizer", get_tokenizer))
        yield


def _added_tokens(folder: Path) -> dict[str, int]:
    added = _read(folder / "tokenizer.json")["added_tokens"]
    tokens = {token["content"]: token["id"] for token in added}
    if "<|nocaptions|>" in tokens:  # Hugging Face's older spelling
        tokens["<|nospeech|>"] = tokens.pop("<|nocaptions|>")
    return tokens


def _language_tokens(specials: Mapping[str, int]) -> list[str]:
    return [token for token in specials if token.strip("<|>") in LANGUAGES]


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
