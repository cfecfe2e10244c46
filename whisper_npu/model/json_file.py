"""Reading the JSON files of a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from whisper_npu.errors import ModelError
from whisper_npu.files.whole import read_file

# A tokenizer.json of 50,000 tokens has 4 MB. Parsed JSON can take 30 times its length.
LARGEST_FILE = 16 << 20


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ModelError that names the file."""
    return parse_json(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """A file that is not larger than any model needs. Raises ModelError that names it."""
    return read_file(path, LARGEST_FILE, ModelError)


def parse_json(content: bytes, path: Path) -> dict[str, Any]:
    """The object that ``content``, which ``path`` holds, describes. Raises ModelError."""
    try:
        # As text, for bytes could also be UTF-16.
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: must hold a JSON object, not {type(value).__name__}")
    return value
