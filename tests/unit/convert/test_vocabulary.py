"""tokenizer.json from ranks, next to the tool that makes it for seeded checkpoints."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from tests.support import vocabulary as tool
from whisper_npu.convert.tokenizer_files import read_tokenizer
from whisper_npu.errors import ModelError
from whisper_npu.model import json_file
from whisper_npu.text.tokenizer_json import (
    LANGUAGE_CODES,
    merges,
    special_tokens,
    tokenizer_json,
)

SOURCE = Path("source")


def test_the_file_of_the_small_vocabulary() -> None:
    small = tool.small_vocabulary(tool.LANGUAGES)
    assert list(LANGUAGE_CODES) == tool.LANGUAGES
    specials = special_tokens(len(small.specials), SOURCE)
    assert tuple(specials) == small.specials
    made = json.loads(tokenizer_json(small.tokens, specials, SOURCE))
    assert made == small.tokenizer_json()


def test_merges_of_ambiguous_tokens() -> None:
    # "abc" could be "ab" + "c" or "a" + "bc": the pair that encoding reaches first made it.
    tokens = [b"a", b"b", b"c", b"bc", b"ab", b"abc"]
    assert merges(tokens, SOURCE)[-1] == (b"a", b"bc")
    tokens = [b"a", b"b", b"c", b"ab", b"bc", b"abc"]
    assert merges(tokens, SOURCE)[-1] == (b"ab", b"c")


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([b"a", b"ab"], "token 1 is not made of two tokens before it"),
        ([b"ab", b"a", b"b"], "token 0 is not made"),
        ([b"a", b"b", b"a"], "in the vocabulary twice"),
        ([b"", b"a", b""], "in the vocabulary twice"),
        ([b"a" * 257], "tokens of more than 256 bytes"),
        ([b"a" * 256] * 8193, "more than 2097152 bytes in all"),
    ],
)
def test_tokens_that_are_no_vocabulary(tokens: list[bytes], message: str) -> None:
    with pytest.raises(ModelError, match=f"source: .*{message}"):
        merges(tokens, SOURCE)


@pytest.mark.parametrize(("count", "languages"), [(1510, 1), (1608, 99), (1609, 100)])
def test_special_tokens_of_a_number(count: int, languages: int) -> None:
    names = special_tokens(count, SOURCE)
    assert len(names) == len(set(names)) == count
    assert names[2 + languages : 4 + languages] == ["<|translate|>", "<|transcribe|>"]
    assert names[-1501] == "<|0.00|>"
    assert names[-1] == "<|30.00|>"


@pytest.mark.parametrize("count", [-5, 0, 1509, 1610])
def test_numbers_that_no_whisper_has(count: int) -> None:
    with pytest.raises(ModelError, match=f"leaves {count} ids for special tokens; Whisper has"):
        special_tokens(count, SOURCE)


def tiktoken(path: Path, tokens: list[bytes]) -> Path:
    # openai-whisper's multilingual file spells its empty token "=".
    lines = (f"{base64.b64encode(token).decode() or '='} {i}" for i, token in enumerate(tokens))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_tiktoken_file(tmp_path: Path) -> None:
    small = tool.small_vocabulary(tool.LANGUAGES)
    tokens = [*small.tokens, b""]
    file = tiktoken(tmp_path / "small.tiktoken", tokens)
    text, read = read_tokenizer(file, len(tokens) + 1609)
    assert read == file
    assert text == tokenizer_json(tokens, special_tokens(1609, file), file)
    assert json.loads(text)["model"]["vocab"][""] == len(small.tokens)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no tokens"),
        ("YQ== 0\nYg 1\n", "line 2 is not a token in base 64"),
        ("YQ== 0\nÿ 1\n", "line 2 is not a token in base 64"),
        ("YQ== 1\n", "line 1 has not rank 0"),
        ("YQ==\n", "line 1 has not rank 0"),
        ("YQ== 0\n", "leaves 5 ids for special tokens"),
    ],
)
def test_damaged_tiktoken_files(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "x.tiktoken"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=rf"x\.tiktoken: .*{message}"):
        read_tokenizer(file, 6)


def test_vocabulary_files_that_are_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match=r"tokenizer\.json: cannot be read as text"):
        read_tokenizer(tmp_path, 6)
    monkeypatch.setattr(json_file, "LARGEST_FILE", 1)
    with pytest.raises(ModelError, match=r"tokenizer\.json: has more than the"):
        read_tokenizer(tmp_path, 6)
