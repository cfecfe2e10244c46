"""Text to tokens and back, from a model's tokenizer.json, or vocab.json and merges.txt.

Special tokens, timestamps and languages are looked up in the file, so any byte-level BPE
vocabulary laid out as Whisper's works: text tokens first, then ``<|endoftext|>`` and the control
tokens, then the timestamps. Property names are openai-whisper's.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from whisper_npu.errors import ModelError, OptionError
from whisper_npu.model.folder import GENERATION
from whisper_npu.text.languages import LANGUAGES, TASKS, to_language_code
from whisper_npu.text.tokenizer_json import tokenizer_files
from whisper_npu.text.vocabulary import Vocabulary

_REPLACEMENT = "\ufffd"

# openai-whisper's English-only models have language tokens too; where generation_config.json does
# not say which kind a model is, it is where their special tokens begin.
_ENGLISH_ONLY_EOT = 50256

# Languages written without spaces between words.
_UNSPACED_LANGUAGES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})

# What openai-whisper keeps the model from writing: speaker tags, brackets of stage directions,
# music. Symbols of the second group are suppressed where they are one token; notes are suppressed
# even where they are several, by their first token.
_NON_SPEECH = (
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
    *("<<", ">>", "<<<", ">>>", "--", "---", "-(", "-[", "('", '("', "((", "))", "(((", ")))"),
    *("[[", "]]", "{{", "}}", "♪♪", "♪♪♪"),
)
_NOTES = "♩♪♫♬♭♮♯"


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary with the language and task that a transcription is set to.

    English-only models have neither: ``language`` and ``task`` are None for them.
    ``suppressed`` is what the option ``suppress_tokens="-1"`` stands for.
    """

    vocabulary: Vocabulary
    is_multilingual: bool
    language: str | None
    task: str | None
    suppressed: tuple[int, ...]

    @classmethod
    def from_dir(cls, path: str | Path, n_vocab: int, generation: Mapping[str, Any]) -> Tokenizer:
        """The tokenizer of a model directory.

        ``generation`` is its generation_config.json (or an empty mapping). Its
        ``suppress_tokens``, when there are any, are what "-1" suppresses; without it that is
        openai-whisper's set, computed by :attr:`non_speech_tokens`. For OpenAI's models the two
        give the same tokens: the file's list is that set and control tokens which are always
        suppressed. Raises ModelError, naming the file, if the tokenizer does not fit the model.
        """
        folder = Path(path)
        no_timestamps = generation.get("no_timestamps_token_id")
        if no_timestamps is not None and (
            type(no_timestamps) is not int or not 0 <= no_timestamps < n_vocab
        ):
            raise ModelError(
                f"{folder / 'generation_config.json'}: no_timestamps_token_id must be a token id "
                f"below {n_vocab}, not {no_timestamps!r}"
            )
        begin = None if no_timestamps is None else no_timestamps + 1
        vocabulary = Vocabulary(tokenizer_files(folder)[0], n_vocab, begin)
        languages = _language_ids(vocabulary)
        is_multilingual = generation.get(
            "is_multilingual",
            bool(languages) and vocabulary.id("<|endoftext|>") != _ENGLISH_ONLY_EOT,
        )
        tokenizer = cls(vocabulary, bool(is_multilingual), None, None, ())
        for name in ("<|startoftranscript|>", "<|startofprev|>", "<|notimestamps|>"):
            vocabulary.id(name)
        if is_multilingual:
            vocabulary.id("<|transcribe|>")
            if not languages:
                raise ModelError(f"{vocabulary.file}: has no language tokens")
        suppressed = _suppressed(generation, folder / GENERATION, n_vocab)
        tokenizer = replace(tokenizer, suppressed=suppressed or tokenizer.non_speech_tokens)
        return tokenizer.for_task(None, "transcribe")

    def for_task(self, language: str | None, task: str) -> Tokenizer:
        """This tokenizer set to a language (code or name; None: the default) and a task.

        Raises OptionError if the model does not have the language or the task.
        """
        if task not in TASKS:
            raise OptionError(f"task: must be one of {', '.join(TASKS)}, not {task!r}")
        code = None if language is None else to_language_code(language)
        if not self.is_multilingual:
            if code not in (None, "en"):
                raise OptionError(f"language: this model is English-only and has no {language!r}")
            if task == "translate":
                raise OptionError("task: this model is English-only and cannot translate")
            return replace(self, language=None, task=None)
        codes = self.all_language_codes
        if code is None:
            code = "en" if "en" in codes else codes[0]
        if code not in codes:
            raise OptionError(
                f"language: the model has no {language!r}; it has {', '.join(sorted(codes))}"
            )
        if task == "translate" and self.translate is None:
            raise OptionError("task: this model has no <|translate|> token and cannot translate")
        return replace(self, language=code, task=task)

    @property
    def eot(self) -> int:
        return self.vocabulary.specials["<|endoftext|>"]

    @property
    def sot(self) -> int:
        return self.vocabulary.specials["<|startoftranscript|>"]

    @property
    def sot_prev(self) -> int:
        return self.vocabulary.specials["<|startofprev|>"]

    @property
    def no_timestamps(self) -> int:
        return self.vocabulary.specials["<|notimestamps|>"]

    @property
    def timestamp_begin(self) -> int:
        return self.vocabulary.timestamp_begin

    # Tokens that a vocabulary made for fewer tasks may lack: None.

    @property
    def transcribe(self) -> int | None:
        return self.vocabulary.specials.get("<|transcribe|>")

    @property
    def translate(self) -> int | None:
        return self.vocabulary.specials.get("<|translate|>")

    @property
    def sot_lm(self) -> int | None:
        return self.vocabulary.specials.get("<|startoflm|>")

    @property
    def no_speech(self) -> int | None:
        # The older of the two spellings is that of Hugging Face's first conversions.
        specials = self.vocabulary.specials
        return specials.get("<|nospeech|>", specials.get("<|nocaptions|>"))

    @cached_property
    def _languages(self) -> dict[str, int]:
        return _language_ids(self.vocabulary)

    @property
    def all_language_tokens(self) -> tuple[int, ...]:
        return tuple(self._languages.values())

    @property
    def all_language_codes(self) -> tuple[str, ...]:
        return tuple(self._languages)

    @property
    def language_token(self) -> int:
        """The token of ``language``. Raises OptionError if no language is set."""
        if self.language is None:
            raise OptionError("language: this model is English-only and has no language token")
        return self._languages[self.language]

    @cached_property
    def sot_sequence(self) -> tuple[int, ...]:
        """What a transcript starts with: ``<|startoftranscript|>``, the language and the task."""
        if self.language is None:
            return (self.sot,)
        return (self.sot, self.language_token, self.vocabulary.specials[f"<|{self.task}|>"])

    @property
    def sot_sequence_including_notimestamps(self) -> tuple[int, ...]:
        return (*self.sot_sequence, self.no_timestamps)

    @property
    def blank(self) -> tuple[int, ...]:
        """What a space alone is encoded as."""
        return self.vocabulary.blank

    @cached_property
    def non_speech_tokens(self) -> tuple[int, ...]:
        """Tokens of symbols that are not spoken, as openai-whisper collects them."""
        # A hyphen or an apostrophe may stand within a word but not begin one.
        found = {self.encode(" -")[0], self.encode(" '")[0]}
        for symbol in (*_NON_SPEECH, *_NOTES):
            for tokens in (self.encode(symbol), self.encode(" " + symbol)):
                if len(tokens) == 1 or symbol in _NOTES:
                    found.add(tokens[0])
        # A small vocabulary may write " -" as a space and a hyphen: the space has to stay.
        return tuple(sorted(found - set(self.encode(" "))))

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; the names of special tokens in it are ordinary text."""
        return self.vocabulary.encode(text)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of ``tokens`` without the timestamps among them."""
        return self.vocabulary.decode(t for t in tokens if t < self.timestamp_begin)

    def decode_with_timestamps(self, tokens: Iterable[int]) -> str:
        """The text of ``tokens`` with timestamps written as ``<|1.08|>``."""
        return self.vocabulary.decode(tokens)

    def split_to_word_tokens(self, tokens: Sequence[int]) -> tuple[list[str], list[list[int]]]:
        """Words of ``tokens`` and the tokens of each.

        Words begin at a space; in languages written without spaces every character that the
        tokens complete is a word.
        """
        if self.language in _UNSPACED_LANGUAGES:
            return self.split_tokens_on_unicode(tokens)
        return self.split_tokens_on_spaces(tokens)

    def split_tokens_on_unicode(self, tokens: Sequence[int]) -> tuple[list[str], list[list[int]]]:
        """The shortest runs of tokens that are whole characters: their texts and tokens.

        As in openai-whisper, U+FFFD counts as a character where the text of all the tokens has
        it at the same place, and tokens that never complete one are left out.
        """
        whole = self.decode_with_timestamps(tokens)
        words: list[str] = []
        word_tokens: list[list[int]] = []
        run: list[int] = []
        offset = 0
        for token in tokens:
            run.append(token)
            text = self.decode_with_timestamps(run)
            broken = text.find(_REPLACEMENT)
            # A slice, for the place can lie beyond the end after an invalid byte.
            if broken >= 0 and whole[offset + broken : offset + broken + 1] != _REPLACEMENT:
                continue
            words.append(text)
            word_tokens.append(run)
            run = []
            offset += len(text)
        return words, word_tokens

    def split_tokens_on_spaces(self, tokens: Sequence[int]) -> tuple[list[str], list[list[int]]]:
        """Runs of tokens that begin at a space, a punctuation mark or a special token."""
        words: list[str] = []
        word_tokens: list[list[int]] = []
        for text, run in zip(*self.split_tokens_on_unicode(tokens), strict=True):
            begins = (
                run[0] >= self.eot or text.startswith(" ") or text.strip() in string.punctuation
            )
            if begins or not words:
                words.append(text)
                word_tokens.append(run)
            else:
                words[-1] += text
                word_tokens[-1] += run
        return words, word_tokens


def _language_ids(vocabulary: Vocabulary) -> dict[str, int]:
    """Language codes and the ids of their tokens, in the order of the ids."""
    names = {name[2:-2]: id for name, id in vocabulary.specials.items()}
    return {code: id for code, id in names.items() if code in LANGUAGES}


def _suppressed(generation: Mapping[str, Any], file: Path, n_vocab: int) -> tuple[int, ...]:
    ids = generation.get("suppress_tokens") or []
    if not isinstance(ids, list) or not all(isinstance(i, int) and 0 <= i < n_vocab for i in ids):
        raise ModelError(f"{file}: suppress_tokens must be token ids below {n_vocab}")
    return tuple(sorted(set(ids)))
