"""The tokenizer: a small byte-level BPE with Whisper's special tokens in Whisper's order.

The 256 byte tokens come first, in GPT-2's order, then the merges, so an id is also the merge's
rank: openai-whisper (tiktoken) and Hugging Face (merges) read the same vocabulary.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wordlists import split_words

LANGUAGES = split_words("""
en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr
bg lt la mi ml cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn
yo so af oc ka be tg sd gu am yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jw su
""")
BASE_SIZE = 1024
EOT = BASE_SIZE
SOT = EOT + 1
ENGLISH = SOT + 1
TRANSLATE = ENGLISH + len(LANGUAGES)
TRANSCRIBE = TRANSLATE + 1
SOT_LM = TRANSCRIBE + 1
SOT_PREV = SOT_LM + 1
NO_SPEECH = SOT_PREV + 1
NO_TIMESTAMPS = NO_SPEECH + 1
TIMESTAMP_BEGIN = NO_TIMESTAMPS + 1
VOCAB_SIZE = TIMESTAMP_BEGIN + 1501
CONTROL_TOKENS = (
    ["<|endoftext|>", "<|startoftranscript|>"]
    + [f"<|{code}|>" for code in LANGUAGES]
    + ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>"]
    + ["<|notimestamps|>"]
)
TIMESTAMP_TOKENS = [f"<|{i * 0.02:.2f}|>" for i in range(1501)]


def learn_merges(texts: Iterable[str], count: int) -> list[tuple[str, str]]:
    """`count` byte-pair merges for English text, the commonest pair first.

    The first ones join the space to every letter, however rare. Whisper's decoding suppresses the
    token of a bare space (it begins " -" and the music signs), so no word may need it.
    """
    space = "\u0120"
    letters = [chr(c) for c in [*range(ord("a"), ord("z") + 1), *range(ord("A"), ord("Z") + 1)]]
    merges = [(space, letter) for letter in letters]
    pieces = Counter(
        piece for text in texts for piece in re.findall(r" ?[A-Za-z]+|'[a-z]+", f" {text}")
    )
    words = []
    for piece, number in sorted(pieces.items()):
        symbols = list(piece.replace(" ", space))
        if symbols[0] == space:
            symbols[:2] = ["".join(symbols[:2])]
        words.append((symbols, number))
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for symbols, number in words:
            for pair in itertools.pairwise(symbols):
                pairs[pair] += number
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for symbols, _ in words:
            at = 0
            while at < len(symbols) - 1:
                if (symbols[at], symbols[at + 1]) == best:
                    symbols[at : at + 2] = ["".join(best)]
                at += 1
    return merges


def train_tokenizer(texts: Iterable[str], path: Path) -> None:
    """Learn the merges from `texts` and write a Hugging Face tokenizer.json."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    merges = learn_merges(texts, BASE_SIZE - 256)
    tokens = [*byte_decoder(), *("".join(pair) for pair in merges)]
    ranks = {token: rank for rank, token in enumerate(tokens)}
    if len(ranks) != BASE_SIZE:
        raise ValueError("two merges give the same token")
    tokenizer = Tokenizer(models.BPE(vocab=ranks, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in CONTROL_TOKENS])
    tokenizer.add_tokens([AddedToken(t, special=False) for t in TIMESTAMP_TOKENS])
    if tokenizer.token_to_id("<|30.00|>") != VOCAB_SIZE - 1:
        raise ValueError("the special tokens are not where Whisper expects them")
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))


def byte_decoder() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte, the way back."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + i): byte for i, byte in enumerate(others)})
    return table


def tiktoken_ranks(path: Path) -> dict[bytes, int]:
    """The base vocabulary as tiktoken wants it."""
    model: dict[str, Any] = json.loads(path.read_text())["model"]
    table = byte_decoder()
    return {bytes(table[c] for c in token): rank for token, rank in model["vocab"].items()}
