"""The vocabulary that a source is converted with: files that ``--tokenizer`` names."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from whisper_npu.errors import ModelError
from whisper_npu.model.json_file import read_bytes
from whisper_npu.text.tokenizer_json import (
    read_tokenizer_json,
    special_tokens,
    tokenizer_files,
    tokenizer_json,
)


def read_tokenizer(path: Path, n_vocab: int) -> tuple[str, Path]:
    """The text of tokenizer.json from what ``--tokenizer`` names, and the file that was read.

    That is a tokenizer.json, or a vocab.json with merges.txt beside it, a folder with either, or
    one of openai-whisper's ``.tiktoken`` files. Raises ModelError.
    """
    file = tokenizer_files(path)[0] if path.is_dir() else path
    text = _decoded(read_tokenizer_json(file), file)
    if file.suffix == ".tiktoken":
        tokens = _tiktoken_tokens(text, file)
        text = tokenizer_json(tokens, special_tokens(n_vocab - len(tokens), file), file)
    return text, file


def read_text(file: Path) -> str:
    """The text of a file that should be small. Raises ModelError."""
    return _decoded(read_bytes(file), file)


def _decoded(content: bytes, file: Path) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{file}: cannot be read as text: {error}") from error


def _tiktoken_tokens(text: str, file: Path) -> list[bytes]:
    """Tokens by rank. A line has a token in base 64 and its rank."""
    tokens = []
    for number, line in enumerate(text.splitlines()):
        token, _, rank = line.partition(" ")
        try:
            # openai-whisper's multilingual file has an empty token, spelled "=".
            tokens.append(b"" if token == "=" else base64.b64decode(token, validate=True))
        except (ValueError, binascii.Error):
            raise ModelError(f"{file}: line {number + 1} is not a token in base 64") from None
        if rank != str(number):
            raise ModelError(f"{file}: line {number + 1} has not rank {number}")
    if not tokens:
        raise ModelError(f"{file}: has no tokens")
    return tokens
