"""Reading the JSON files of a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from whisper_npu.errors import ModelError

# A tokenizer.json of 50,000 tokens has 4 MB. Parsed JSON can take 30 times its length.
LARGEST_FILE = 16 << 20


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ModelError that names the file."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ModelError(f"{path}: has more than {LARGEST_FILE >> 20} MiB; no model needs that")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: must hold a JSON object, not {type(value).__name__}")
    return value
