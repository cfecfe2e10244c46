"""The names of the files in a model's folder, which are Hugging Face's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

CONFIG = "config.json"
GENERATION = "generation_config.json"
TOKENIZER = "tokenizer.json"
WEIGHTS = "model.safetensors"
# Of the int8 weights that are written.
FORMAT_VERSION = 2
# Names the files of weights that are split into shards.
INDEX = f"{WEIGHTS}.index.json"
# Weights as torch pickles them, and the index of their shards.
PICKLED = "pytorch_model.bin"
PICKLED_INDEX = f"{PICKLED}.index.json"
# What stands for tokenizer.json where transformers saved a tokenizer that is not "fast".
VOCABULARY = "vocab.json"
MERGES = "merges.txt"
ADDED_TOKENS = "added_tokens.json"
TOKENIZER_CONFIG = "tokenizer_config.json"


def has_safetensors(folder: Path) -> bool:
    """Whether there are weights in a folder that are read as they are."""
    return (folder / WEIGHTS).exists() or (folder / INDEX).exists()


def weights_name(is_there: Callable[[str], bool]) -> str | None:
    """The name of the file with a folder's weights, or of that which shards stand for; None if
    there are no weights. ``is_there`` says what the folder has."""
    names = (WEIGHTS, PICKLED)
    return next((n for n in names if is_there(n) or is_there(f"{n}.index.json")), None)


def tokenizer_names(is_there: Callable[[str], bool]) -> list[str]:
    """The files that make the tokenizer of a folder, of which ``is_there`` says what it has."""
    parts = [VOCABULARY, MERGES]
    if is_there(TOKENIZER) or not all(map(is_there, parts)):
        return [TOKENIZER]
    return [*parts, *filter(is_there, (ADDED_TOKENS, TOKENIZER_CONFIG))]
