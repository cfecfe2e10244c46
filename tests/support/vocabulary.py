"""Vocabularies of seeded checkpoints, as the content of a Hugging Face ``tokenizer.json``.

Two kinds: a small one trained here on the text below, which needs nothing but this file, and
the published ones, rebuilt from the ``.tiktoken`` files that openai-whisper carries.
"""

from __future__ import annotations

import base64
import itertools
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

# Several scripts on purpose: characters of two to four bytes become tokens that hold a part of a
# character, which decoding and word splitting have to survive.
SEED_TEXT = """
And so, my fellow listeners, ask not what the machine can hear for you, ask what you can say to it.
The quick brown fox jumps over the lazy dog, and the dog does not mind it at all.
We began the day with a long walk along the river, where the water was still and very cold.
She said that the train would leave the station at a quarter past seven in the morning.
There were twelve people in the room, but only three of them were listening to the speaker.
He has never seen the sea, he told us, and he would like to go there before the winter comes.
When the lights went out, everyone stopped talking; then somebody laughed and it was over.
I think that the second part of this story is better than the first part, don't you?
They're going to open a new school in the old house behind the church next September.
It's raining again, so we'll stay inside and read the letters that came with the post today.
You can't have both, you know: either the table or the chairs, but not the two together.
Please write down the number on the paper: one, two, three, four, five, six, seven, eight, nine.
In 1969 some men walked on the moon, and 600 million people watched them do it, live, at home.
The doctor asked her how long she had been feeling like that; she answered, "For about a week."
What a wonderful evening! We should do this more often, shouldn't we? Thank you for coming.
Most of the time nothing happens, and that is exactly how the keeper of the lighthouse likes it.
They carried the heavy boxes up the stairs one after another until there was no room left.
My brother works in a bakery, so our kitchen always smells of bread, butter and warm sugar.
Turn left at the bridge, go straight on for two miles, and you will see the mountain on your right.
Nobody could remember who had brought the small grey cat, but everybody wanted to keep it.
(Music) [laughter] -- no, wait -- <that> is #1 of {three} *things* + more = _enough_ ~ @ home.
L'été dernier, nous étions à la mer; c'était très beau et le café était délicieux, n'est-ce pas?
Der Schnee fällt über die Dächer, und für die Kinder ist das natürlich das schönste Geräusch.
El niño pequeño corría por la montaña mientras su madre leía un periódico del año pasado.
Привет, как дела?
今日は天気がいい。
오늘은 날씨가 좋다.
♪ la la la ♪ ♫ 🎵
"""

# In the order of the published token ids; large-v3 added the last one.
_LANGUAGES = """
en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr
bg lt la mi ml cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn
yo so af oc ka be tg sd gu am yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jw su
yue
"""
LANGUAGES = _LANGUAGES.split()

SMALL_MERGES = 500
N_TIMESTAMPS = 1501  # 0.00 to 30.00 seconds in steps of 0.02
SPLIT = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+| ?\d+| ?[^\s\w]+|\s+(?!\S)|\s+")


def _byte_characters() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte, in the order of the byte tokens."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable}
    return characters | {byte: chr(256 + i) for i, byte in enumerate(others)}


BYTE_CHARACTERS = _byte_characters()


@dataclass(frozen=True)
class Vocabulary:
    """Text tokens by id, the merges that build them, and the special tokens that follow them."""

    tokens: tuple[bytes, ...]
    merges: tuple[tuple[bytes, bytes], ...]
    specials: tuple[str, ...]

    @property
    def n_vocab(self) -> int:
        return len(self.tokens) + len(self.specials)

    def special(self, content: str) -> int:
        """Id of a special token. Raises ValueError if there is none of that content."""
        return len(self.tokens) + self.specials.index(content)

    def tokenizer_json(self) -> dict[str, Any]:
        """The content of ``tokenizer.json``, as Hugging Face lays it out for Whisper."""
        n_words = len(self.specials) - N_TIMESTAMPS
        prefix = ["<|startoftranscript|>", "<|notimestamps|>"]
        template = [{"SpecialToken": {"id": name, "type_id": 0}} for name in prefix]
        template.append({"Sequence": {"id": "A", "type_id": 0}})
        template.append({"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}})
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {
                    "id": len(self.tokens) + i,
                    "content": content,
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    # Published files mark timestamps as ordinary added tokens.
                    "special": i < n_words,
                }
                for i, content in enumerate(self.specials)
            ],
            "normalizer": None,
            "pre_tokenizer": {**byte_level, "use_regex": True},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": template,
                "pair": template,
                "special_tokens": {
                    name: {"id": name, "ids": [self.special(name)], "tokens": [name]}
                    for name in [*prefix, "<|endoftext|>"]
                },
            },
            "decoder": {**byte_level, "use_regex": True},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": "",
                "end_of_word_suffix": "",
                "fuse_unk": False,
                "byte_fallback": False,
                "vocab": {_spelling(token): i for i, token in enumerate(self.tokens)},
                "merges": [f"{_spelling(a)} {_spelling(b)}" for a, b in self.merges],
            },
        }


def _spelling(token: bytes) -> str:
    return "".join(BYTE_CHARACTERS[byte] for byte in token)


def special_tokens(languages: list[str], no_speech: str = "<|nospeech|>") -> tuple[str, ...]:
    """Whisper's special tokens in the order of their ids."""
    return (
        "<|endoftext|>",
        "<|startoftranscript|>",
        *(f"<|{language}|>" for language in languages),
        "<|translate|>",
        "<|transcribe|>",
        "<|startoflm|>",
        "<|startofprev|>",
        no_speech,
        "<|notimestamps|>",
        *(f"<|{i * 0.02:.2f}|>" for i in range(N_TIMESTAMPS)),
    )


def small_vocabulary(languages: list[str]) -> Vocabulary:
    """The small vocabulary: 256 bytes and the merges learnt from the text above."""
    merges = train_merges(SEED_TEXT, SMALL_MERGES)
    tokens = [bytes([byte]) for byte in BYTE_CHARACTERS] + [a + b for a, b in merges]
    return Vocabulary(tuple(tokens), merges, special_tokens(languages))


def tiktoken_vocabulary(path: Path, languages: list[str]) -> Vocabulary:
    """A vocabulary from the ranks in a ``.tiktoken`` file.

    Hugging Face files call the no-speech token ``<|nocaptions|>`` up to large-v2, which have 99
    languages, and ``<|nospeech|>`` from large-v3 on.
    """
    lines = [line.split() for line in path.read_text(encoding="ascii").splitlines() if line]
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    tokens = sorted(ranks, key=ranks.__getitem__)
    if sorted(ranks.values()) != list(range(len(tokens))):
        raise ValueError(f"{path}: ranks are not 0 to {len(tokens) - 1}")
    no_speech = "<|nocaptions|>" if len(languages) == 99 else "<|nospeech|>"
    specials = special_tokens(languages, no_speech)
    return Vocabulary(tuple(tokens), tuple(merges_from_ranks(tokens)), specials)


def merges_from_ranks(tokens: list[bytes]) -> list[tuple[bytes, bytes]]:
    """The merge that made each token of a byte-pair vocabulary whose ids are ranks.

    Merging a token's own bytes with the tokens that came before it ends in exactly two parts:
    the pair that was merged when the token was added.
    """
    ranks = {token: rank for rank, token in enumerate(tokens)}
    merges = []
    for rank, token in enumerate(tokens):
        if len(token) < 2:
            continue
        parts = _merge_bytes(token, ranks, rank)
        if len(parts) != 2:
            raise ValueError(f"token {rank} {token!r} is not a merge of two tokens before it")
        merges.append((parts[0], parts[1]))
    return merges


def _merge_bytes(token: bytes, ranks: dict[bytes, int], limit: int) -> list[bytes]:
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 1:
        candidates = [ranks.get(a + b, limit) for a, b in itertools.pairwise(parts)]
        best = min(candidates)
        if best >= limit:
            break
        at = candidates.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


@lru_cache(maxsize=1)
def train_merges(text: str, count: int) -> tuple[tuple[bytes, bytes], ...]:
    """Byte-pair merges of a text: most frequent pair first, then shortest, then by bytes."""
    words = Counter(piece.encode() for piece in SPLIT.findall(text))
    spelled = {word: [bytes([byte]) for byte in word] for word in words}
    merges: list[tuple[bytes, bytes]] = []
    while len(merges) < count:
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for word, parts in spelled.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            raise ValueError(f"the text has {len(merges)} merges, fewer than {count}")
        best = min(pairs, key=lambda pair: (-pairs[pair], len(pair[0] + pair[1]), pair))
        merges.append(best)
        for parts in spelled.values():
            _apply(parts, best)
    return tuple(merges)


def _apply(parts: list[bytes], merge: tuple[bytes, bytes]) -> None:
    i = 0
    while i < len(parts) - 1:
        if (parts[i], parts[i + 1]) == merge:
            parts[i : i + 2] = [merge[0] + merge[1]]
        i += 1
