"""The tokens of a model, from its tokenizer.json: their names, and text from tokens.

Tokens become text here. Text becomes tokens in the tokenizers library, which takes longer to read
its file than all else of a small model, and is only asked to where there is text: a prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from whisper_npu.errors import ModelError
from whisper_npu.model.json_file import parse_json
from whisper_npu.ops.arrays import I64
from whisper_npu.text.byte_level import BYTES
from whisper_npu.text.tokenizer_json import N_TIMESTAMPS, read_tokenizer_json

if TYPE_CHECKING:
    import tokenizers

_TIMESTAMP = re.compile(r"<\|\d+\.\d\d\|>")
_SECONDS_PER_TIMESTAMP = 0.02


_NO_BYTE = re.compile(f"[^{re.escape(''.join(BYTES))}]")
_SPACE = next(char for char, byte in BYTES.items() if byte == 0x20)


def _is_marked(name: str) -> bool:
    return len(name) > 4 and name.startswith("<|") and name.endswith("|>")


class _Names:
    """The names of tokens by id; of an id that has none, an empty one.

    One string with all of them, for 50,000 strings take ten times the memory.
    """

    def __init__(self, names: Iterable[str], ids: I64) -> None:
        names = tuple(names)
        stops = np.cumsum(np.fromiter(map(len, names), np.int32, len(names)), dtype=np.int32)
        # By id, where each begins and ends.
        self._spans = np.zeros((ids.max(initial=-1) + 1, 2), np.int32)
        self._spans[ids, 1] = stops
        self._spans[ids[1:], 0] = stops[:-1]
        self._text = "".join(names)

    def __getitem__(self, id: int) -> str:
        if not 0 <= id < len(self._spans):
            return ""
        start, stop = self._spans[id]
        return self._text[start:stop]

    def beginning_with(self, prefix: str) -> dict[int, str]:
        """The names that do, by id. Found in all of them at once: there may be 50,000."""
        begins = np.zeros(len(self._text) + 1, np.bool_)
        begins[[match.start() for match in re.finditer(re.escape(prefix), self._text)]] = True
        ids = np.flatnonzero(begins[self._spans[:, 0]])
        spans = zip(ids.tolist(), self._spans[ids].tolist(), strict=True)
        return {id: self._text[start:stop] for id, (start, stop) in spans}


class Vocabulary:
    """The tokens of one tokenizer.json, checked against a model's ``n_vocab``.

    ``specials`` maps the control tokens to their ids, timestamps excluded; timestamps are the
    ids from ``timestamp_begin`` up to ``timestamp_end``. ``unused`` are ids that the model has
    and that mean nothing here: the file does not describe them, or somebody added them after the
    timestamps. ``blank`` is what a space alone is encoded as: its one byte,
    which no merge changes. Raises ModelError if the file cannot be read or does not fit.
    """

    def __init__(self, file: Path, n_vocab: int, timestamp_begin: int | None = None) -> None:
        self.file = file
        self.n_vocab = n_vocab
        # Kept for the library, as the file may change or go.
        self._content = read_tokenizer_json(file)
        ids, last_of_text = _ids(self._content, file)
        # Text becomes these tokens, whatever the model knows of them.
        if last_of_text >= n_vocab:
            self._too_few(max(ids.values()))
        beyond = _take_beyond(ids, n_vocab)
        numbers = np.fromiter(ids.values(), np.int64, len(ids))
        unknown = np.ones(n_vocab, np.bool_)
        unknown[numbers] = False
        if n_vocab - np.count_nonzero(unknown) < len(ids):
            self._misfit("two tokens have the same id")
        self._names = _Names(ids, numbers)
        self.blank = (ids[_SPACE],) if _SPACE in ids else ()
        opened = self._names.beginning_with("<|").items()
        marked = {id: name for id, name in opened if _is_marked(name)}
        stamps = {id: name for id, name in marked.items() if _TIMESTAMP.fullmatch(name)}
        self.specials = {marked[id]: id for id in sorted(marked.keys() - stamps.keys())}
        # What was added after the timestamps the model may do without.
        if beyond and (not stamps or any(map(_TIMESTAMP.fullmatch, beyond))):
            self._too_few(max(beyond.values()))
        self.timestamp_begin, self.timestamp_end = self._timestamps(stamps, timestamp_begin)
        late = np.flatnonzero(~unknown[self.timestamp_end :]) + self.timestamp_end
        for id in late.tolist():
            name = marked.pop(id, "") or self._names[id]
            self.specials.pop(name, None)
            del ids[name]
        for name in marked.values():
            del ids[name]
        self._check_layout(ids)
        unknown[self.timestamp_begin : self.timestamp_end] = False
        unknown[self.timestamp_end :] = True
        self.unused = tuple(np.flatnonzero(unknown).tolist())

    def _misfit(self, problem: str) -> None:
        raise ModelError(f"{self.file}: {problem}")

    def _too_few(self, last: int) -> None:
        self._misfit(
            f"has tokens up to {last} but the model only has {self.n_vocab}; "
            "use the tokenizer.json of this model"
        )

    def id(self, name: str) -> int:
        """The id of a special token. Raises ModelError if the file lacks it."""
        if name not in self.specials:
            self._misfit(f"has no {name} token; it is not a Whisper tokenizer")
        return self.specials[name]

    def _timestamps(self, stamps: Mapping[int, str], begin: int | None) -> tuple[int, int]:
        if not stamps:
            # Older files do not list the timestamps: they follow <|notimestamps|>.
            begin = self.id("<|notimestamps|>") + 1 if begin is None else begin
            if begin >= self.n_vocab:
                self._misfit("has no timestamp tokens and the model no room for them")
            return begin, min(begin + N_TIMESTAMPS, self.n_vocab)
        first, last = min(stamps), max(stamps)
        if stamps[first] != "<|0.00|>" or last - first != len(stamps) - 1:
            self._misfit("the timestamp tokens do not follow each other from <|0.00|>")
        return first, last + 1

    def _check_layout(self, text: Mapping[str, int]) -> None:
        # The decoding rules tell text, control tokens and timestamps apart by their order.
        eot = self.id("<|endoftext|>")
        last = max(text.values(), default=0)
        if last >= eot:
            name = self._names[last]
            self._misfit(f"token {name!r} ({last}) is not below <|endoftext|> ({eot})")
        for name, id in self.specials.items():
            if not eot <= id < self.timestamp_begin:
                self._misfit(f"{name} ({id}) is not between <|endoftext|> and the timestamps")
        if strange := _NO_BYTE.search("".join(text)):
            self._misfit(f"is not a byte-level BPE: a token has {strange[0]!r}")

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; the names of special tokens in it are ordinary text.

        Raises ModelError if the tokenizers library cannot read the file.
        """
        with self._as_model_errors():
            backend = self._backend
            if backend.normalizer is not None:
                text = backend.normalizer.normalize_str(text)
            pieces = backend.pre_tokenizer.pre_tokenize_str(text)
            return [token.id for piece, _ in pieces for token in backend.model.tokenize(piece)]

    @cached_property
    def _backend(self) -> tokenizers.Tokenizer:
        import tokenizers

        return tokenizers.Tokenizer.from_buffer(self._content)

    @contextmanager
    def _as_model_errors(self) -> Iterator[None]:
        """What the tokenizers library raises as ModelError."""
        try:
            yield
        except BaseException as error:
            # It raises nothing more specific than Exception, and its panics are not even that.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise ModelError(f"{self.file}: cannot be read as a tokenizer: {error}") from error

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``; bytes that are not UTF-8 become U+FFFD, unknown ids nothing."""
        return b"".join(map(self._token_bytes, ids)).decode("utf-8", errors="replace")

    def _token_bytes(self, id: int) -> bytes:
        if self.timestamp_begin <= id < self.timestamp_end:
            seconds = (id - self.timestamp_begin) * _SECONDS_PER_TIMESTAMP
            return f"<|{seconds:.2f}|>".encode()
        if id >= self.timestamp_end:
            return b""
        name = self._names[id]
        return name.encode() if name in self.specials else bytes(BYTES[char] for char in name)


def _take_beyond(ids: dict[str, int], n_vocab: int) -> dict[str, int]:
    """Take out the tokens of ids that a model of ``n_vocab`` tokens does not have."""
    if max(ids.values(), default=0) < n_vocab:
        return {}
    beyond = {name: id for name, id in ids.items() if id >= n_vocab}
    for name in beyond:
        del ids[name]
    return beyond


def _ids(stored: bytes, file: Path) -> tuple[dict[str, int], int]:
    """The ids of all tokens by name, and the largest of those that text becomes.

    Raises ModelError if the file is no tokenizer.json.
    """
    content = parse_json(stored, file)
    try:
        text = dict(content["model"]["vocab"])
        ids = dict(text)
        # As the file has them: the library numbers added tokens anew if it misses one.
        ids.update((token["content"], token["id"]) for token in content["added_tokens"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{file}: cannot be read as a tokenizer: model.vocab and added_tokens must be there"
        ) from error
    names = {type(token["content"]) for token in content["added_tokens"]}
    types = {*map(type, text.values()), *map(type, ids.values())}
    if names - {str} or types - {int} or min(ids.values(), default=0) < 0:
        raise ModelError(f"{file}: a token has no name or an id that is none")
    if content.get("pre_tokenizer") is None:
        raise ModelError(f"{file}: has no pre-tokenizer; Whisper's is ByteLevel")
    return ids, max(text.values(), default=0)
