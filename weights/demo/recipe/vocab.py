"""The tokenizer: a small byte-level BPE with Whisper's special tokens in Whisper's order.

The 256 byte tokens come first, in GPT-2's order, then the merges, so an id is also the merge's
rank: openai-whisper (tiktoken) and Hugging Face (merges) read the same vocabulary.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from whisper_npu.text.tokenizer_json import N_TIMESTAMPS, special_tokens

BASE_SIZE = 1024
VOCAB_SIZE = 2632
_SPECIAL = special_tokens(VOCAB_SIZE - BASE_SIZE, Path(__file__))
_IDS = {name: BASE_SIZE + i for i, name in enumerate(_SPECIAL)}
EOT = _IDS["<|endoftext|>"]
SOT = _IDS["<|startoftranscript|>"]
ENGLISH = _IDS["<|en|>"]
TRANSCRIBE = _IDS["<|transcribe|>"]
SOT_PREV = _IDS["<|startofprev|>"]
NO_SPEECH = _IDS["<|nospeech|>"]
NO_TIMESTAMPS = _IDS["<|notimestamps|>"]
TIMESTAMP_BEGIN = _IDS["<|0.00|>"]


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
    merges = learn_merges(texts, BASE_SIZE - 256)
    # The characters that stand for bytes, in the order of their code points, are GPT-2's order.
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    ranks = {token: rank for rank, token in enumerate(tokens)}
    if len(ranks) != BASE_SIZE:
        raise ValueError("two merges give the same token")
    tokenizer = Tokenizer(models.BPE(vocab=ranks, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in _SPECIAL[:-N_TIMESTAMPS]])
    tokenizer.add_tokens([AddedToken(t, special=False) for t in _SPECIAL[-N_TIMESTAMPS:]])
    tokenizer.save(str(path))
