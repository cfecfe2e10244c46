"""The names of the files in a model's folder, which are Hugging Face's."""

from __future__ import annotations

CONFIG = "config.json"
GENERATION = "generation_config.json"
TOKENIZER = "tokenizer.json"
WEIGHTS = "model.safetensors"
# Names the files of weights that are split into shards.
INDEX = f"{WEIGHTS}.index.json"
