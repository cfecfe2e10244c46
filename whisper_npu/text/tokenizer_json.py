"""tokenizer.json, and what it is made of where there is none.

openai-whisper and whisper.cpp keep the text tokens in the order of their ids, which are also the
ranks of byte-pair encoding; the special tokens follow from their number. Hugging Face's file lists
the special tokens by name, and the pair of tokens that makes each longer one. Its older files have
the same in several parts.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whisper_npu.errors import ModelError
from whisper_npu.model.folder import (
    ADDED_TOKENS,
    MERGES,
    TOKENIZER_CONFIG,
    VOCABULARY,
    tokenizer_names,
)
from whisper_npu.model.json_file import read_bytes, read_json
from whisper_npu.text.byte_level import BYTES

# In the order of the token ids. Models have the first 99, or all 100 since large-v3.
_LANGUAGES = """
en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr
bg lt la mi ml cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn
yo so af oc ka be tg sd gu am yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jw su
yue
"""
LANGUAGE_CODES = tuple(_LANGUAGES.split())
N_TIMESTAMPS = 1501  # 0.00 to 30.00 seconds in steps of 0.02
_N_CONTROL = 8  # special tokens that are neither languages nor timestamps

# The published vocabularies have 320 kB of text in tokens of up to 128 bytes.
_LONGEST_TOKEN = 256
_LARGEST_VOCABULARY = 2 << 20


# By byte.
_CHARACTERS = sorted(BYTES, key=BYTES.__getitem__)


def special_tokens(count: int, source: Path) -> list[str]:
    """Whisper's special tokens, in the order of their ids, if there are ``count`` of them.

    Raises ModelError if that is not Whisper's number for any number of languages.
    """
    n_languages = count - _N_CONTROL - N_TIMESTAMPS
    if not 0 < n_languages <= len(LANGUAGE_CODES):
        fixed = _N_CONTROL + N_TIMESTAMPS
        raise ModelError(
            f"{source}: the vocabulary leaves {count} ids for special tokens; Whisper has {fixed} "
            f"and one for each of up to {len(LANGUAGE_CODES)} languages"
        )
    names = ("endoftext", "startoftranscript", *LANGUAGE_CODES[:n_languages])
    names += ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
    stamps = (f"{index * 0.02:.2f}" for index in range(N_TIMESTAMPS))
    return [f"<|{name}|>" for name in (*names, *stamps)]


def tokenizer_json(tokens: Sequence[bytes], specials: Sequence[str], source: Path) -> str:
    """The text of tokenizer.json for text tokens by rank and the special tokens after them.

    Raises ModelError, naming ``source``, if the tokens are not a byte-pair vocabulary.
    """
    pairs = [f"{_spelled(a)} {_spelled(b)}" for a, b in merges(tokens, source)]
    ids = {name: len(tokens) + index for index, name in enumerate(specials)}
    if len(ids) < len(specials):
        raise ModelError(f"{source}: two special tokens have the same name")
    vocab = {_spelled(token): id for id, token in enumerate(tokens)}
    return _content(vocab, pairs, ids, source)


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a model's folder that make its tokenizer; ``read_tokenizer_json`` takes the
    first of them."""
    return [folder / name for name in tokenizer_names(lambda name: (folder / name).exists())]


def read_tokenizer_json(file: Path) -> bytes:
    """What tokenizer.json holds, or would hold for a vocab.json and the files beside it.

    Raises ModelError that names the file.
    """
    if file.name != VOCABULARY:
        return read_bytes(file)
    try:
        return _joined(file).encode()
    except UnicodeEncodeError as error:
        raise ModelError(f"{file}: the vocabulary is not Unicode text") from error


def _joined(file: Path) -> str:
    vocab = read_json(file)
    added = _added_tokens(file.parent)
    merges_file = file.with_name(MERGES)
    try:
        lines = read_bytes(merges_file).decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ModelError(f"{merges_file}: cannot be read as text: {error}") from error
    pairs = [line for line in lines if line and not line.startswith("#version")]
    if wrong := next((line for line in pairs if line.count(" ") != 1), None):
        raise ModelError(f"{merges_file}: {wrong[:100]!r} is no pair of tokens")
    specials = {name: id for name, id in vocab.items() if name.startswith("<|")} | added
    return _content(vocab, pairs, specials, file)


def _added_tokens(folder: Path) -> dict[str, Any]:
    """The ids of tokens that are not in vocab.json. Raises ModelError."""
    file, config = folder / ADDED_TOKENS, folder / TOKENIZER_CONFIG
    if file.exists():
        return read_json(file)
    described = read_json(config).get("added_tokens_decoder", {}) if config.exists() else {}
    try:
        return {token["content"]: int(id) for id, token in described.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{config}: added_tokens_decoder is damaged") from error


def _content(
    vocab: Mapping[str, Any], pairs: Sequence[str], specials: Mapping[str, Any], source: Path
) -> str:
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(name, id) for name, id in specials.items()],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": _post_processor(specials, source),
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocab,
            "merges": pairs,
        },
    }
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def _added_token(name: str, id: int) -> dict[str, Any]:
    # Timestamps are not "special": Hugging Face's decoding can keep them.
    special = not name.removeprefix("<|")[:1].isdigit()
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id, "content": name, **flags, "special": special}


def _post_processor(ids: Mapping[str, int], source: Path) -> dict[str, Any]:
    before, after = ("<|startoftranscript|>", "<|notimestamps|>"), "<|endoftext|>"
    for name in (*before, after):
        if name not in ids:
            where = f", and {ADDED_TOKENS} has not" if source.name == VOCABULARY else ""
            raise ModelError(f"{source}: has no {name}{where}; it is not Whisper's vocabulary")
    text = {"Sequence": {"id": "A", "type_id": 0}}
    special = [{"SpecialToken": {"id": name, "type_id": 0}} for name in (*before, after)]
    template = [*special[:2], text, special[2]]
    return {
        "type": "TemplateProcessing",
        "single": template,
        "pair": template,
        "special_tokens": {
            name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in (*before, after)
        },
    }


def merges(tokens: Sequence[bytes], source: Path) -> list[tuple[bytes, bytes]]:
    """The pair of tokens that byte-pair encoding joins to each token of two bytes or more.

    ``tokens`` are in the order of their ranks. Raises ModelError if a token cannot be made from
    the tokens before it, is there twice, or if the vocabulary is far larger than Whisper's.
    """
    if (
        sum(map(len, tokens)) > _LARGEST_VOCABULARY
        or max(map(len, tokens), default=0) > _LONGEST_TOKEN
    ):
        raise ModelError(
            f"{source}: the vocabulary has tokens of more than {_LONGEST_TOKEN} bytes, or more "
            f"than {_LARGEST_VOCABULARY} bytes in all; it is not Whisper's"
        )
    ranks = {token: rank for rank, token in enumerate(tokens)}
    if len(ranks) < len(tokens):
        raise ModelError(f"{source}: a token is in the vocabulary twice")
    return [_merge(token, ranks, source) for token in tokens if len(token) > 1]


def _merge(token: bytes, ranks: Mapping[bytes, int], source: Path) -> tuple[bytes, bytes]:
    rank = ranks[token]
    pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
    pairs = [pair for pair in pairs if all(ranks.get(part, rank) < rank for part in pair)]
    if len(pairs) > 1:
        # Encoding the token's bytes with the tokens before it ends in the pair it was made of.
        parts = _encode(token, ranks, rank)
        pairs = [(parts[0], parts[1])] if len(parts) == 2 else []
    if not pairs:
        raise ModelError(f"{source}: token {rank} is not made of two tokens before it")
    return pairs[0]


def _encode(text: bytes, ranks: Mapping[bytes, int], limit: int) -> list[bytes]:
    """Byte-pair encoding with the tokens of ranks below ``limit``."""
    parts = [bytes([byte]) for byte in text]
    while len(parts) > 1:
        joined = [ranks.get(a + b, limit) for a, b in itertools.pairwise(parts)]
        best = min(joined)
        if best >= limit:
            break
        at = joined.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def _spelled(token: bytes) -> str:
    return "".join(_CHARACTERS[byte] for byte in token)


def token_bytes(spelled: str, source: Path) -> bytes:
    """The bytes of a token as Hugging Face's files spell it. Raises ModelError."""
    try:
        return bytes(BYTES[character] for character in spelled)
    except KeyError as error:
        raise ModelError(f"{source}: a token has {error}; it is not a byte-level BPE") from None
