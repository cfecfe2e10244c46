"""Tokenizer: what is found in tokenizer.json, text both ways, words, and files that do not fit."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.vocabulary import LANGUAGES, tiktoken_vocabulary
from tests.unit.decoding_fakes import read_tokenizer, small_tokenizer, special, tokenizer_json
from whisper_npu.errors import ModelError, OptionError
from whisper_npu.text.languages import to_language_code
from whisper_npu.text.tokenizer import Tokenizer

N_TEXT = 756


def test_special_tokens_are_those_of_the_file() -> None:
    tokenizer = small_tokenizer()
    assert tokenizer.eot == N_TEXT
    assert tokenizer.sot == N_TEXT + 1
    assert tokenizer.all_language_codes == ("en", "de", "ja")
    assert tokenizer.all_language_tokens == (N_TEXT + 2, N_TEXT + 3, N_TEXT + 4)
    assert (tokenizer.translate, tokenizer.transcribe) == (N_TEXT + 5, N_TEXT + 6)
    assert (tokenizer.sot_lm, tokenizer.sot_prev) == (N_TEXT + 7, N_TEXT + 8)
    assert (tokenizer.no_speech, tokenizer.no_timestamps) == (N_TEXT + 9, N_TEXT + 10)
    assert tokenizer.timestamp_begin == N_TEXT + 11
    assert tokenizer.vocabulary.timestamp_end == N_TEXT + 11 + 1501
    assert tokenizer.vocabulary.unused == ()


def test_the_start_sequence_follows_language_and_task() -> None:
    tokenizer = small_tokenizer()
    assert tokenizer.sot_sequence == (N_TEXT + 1, N_TEXT + 2, N_TEXT + 6)
    german = tokenizer.for_task("German", "translate")
    assert german.language == "de"
    assert german.language_token == N_TEXT + 3
    assert german.sot_sequence == (N_TEXT + 1, N_TEXT + 3, N_TEXT + 5)
    assert german.sot_sequence_including_notimestamps == (*german.sot_sequence, N_TEXT + 10)


def test_without_english_the_default_is_the_first_language() -> None:
    assert read_tokenizer(tokenizer_json(["fr", "de"])).language == "fr"


@pytest.mark.parametrize(
    ("name", "code"),
    [("en", "en"), ("EN", "en"), ("Japanese", "ja"), ("castilian", "es"), ("Flemish", "nl")],
)
def test_languages_by_code_name_and_alias(name: str, code: str) -> None:
    assert to_language_code(name) == code


def test_no_speech_has_two_spellings() -> None:
    content = tokenizer_json()
    special(content, "<|nospeech|>")["content"] = "<|nocaptions|>"
    assert read_tokenizer(content).no_speech == N_TEXT + 9


def test_tokens_that_a_vocabulary_may_lack() -> None:
    content = tokenizer_json()
    for name in ("<|nospeech|>", "<|startoflm|>", "<|translate|>"):
        content["added_tokens"].remove(special(content, name))
    tokenizer = read_tokenizer(content, small_tokenizer().vocabulary.n_vocab)
    assert tokenizer.no_speech is None
    assert tokenizer.sot_lm is None
    assert tokenizer.vocabulary.unused == (N_TEXT + 5, N_TEXT + 7, N_TEXT + 9)
    with pytest.raises(OptionError, match=r"task: this model has no <\|translate\|> token"):
        tokenizer.for_task("en", "translate")


def without_timestamps() -> dict[str, Any]:
    content = tokenizer_json()
    content["added_tokens"] = content["added_tokens"][:11]
    return content


def test_timestamps_missing_from_the_file_follow_the_control_tokens() -> None:
    n_vocab = small_tokenizer().vocabulary.n_vocab
    tokenizer = read_tokenizer(without_timestamps(), n_vocab)
    assert tokenizer.timestamp_begin == N_TEXT + 11
    assert tokenizer.decode_with_timestamps([N_TEXT + 12]) == "<|0.02|>"
    assert tokenizer.vocabulary.unused == ()


def test_the_generation_config_tells_where_missing_timestamps_begin() -> None:
    n_vocab = small_tokenizer().vocabulary.n_vocab
    tokenizer = read_tokenizer(without_timestamps(), n_vocab, no_timestamps_token_id=N_TEXT + 12)
    assert tokenizer.timestamp_begin == N_TEXT + 13
    assert tokenizer.vocabulary.unused == (N_TEXT + 11, N_TEXT + 12)


@pytest.mark.parametrize("token", [-(10**9), 10**9, "5", 1.5, True])
def test_a_no_timestamps_token_that_is_no_token(token: Any) -> None:
    with pytest.raises(ModelError, match="no_timestamps_token_id must be a token id below"):
        read_tokenizer(tokenizer_json(), no_timestamps_token_id=token)


def test_ids_that_only_the_model_has_are_known_as_unused() -> None:
    n_vocab = small_tokenizer().vocabulary.n_vocab
    tokenizer = read_tokenizer(tokenizer_json(), n_vocab + 3)
    assert tokenizer.vocabulary.unused == (n_vocab, n_vocab + 1, n_vocab + 2)
    assert tokenizer.decode_with_timestamps([n_vocab]) == ""


def english_only() -> Tokenizer:
    return read_tokenizer(tokenizer_json(), is_multilingual=False)


def test_english_only_models_have_no_language_and_no_task() -> None:
    tokenizer = english_only()
    assert tokenizer.language is None
    assert tokenizer.task is None
    assert tokenizer.sot_sequence == (tokenizer.sot,)
    assert tokenizer.for_task("English", "transcribe").sot_sequence == (tokenizer.sot,)
    with pytest.raises(OptionError, match="language: this model is English-only"):
        tokenizer.for_task("de", "transcribe")
    with pytest.raises(OptionError, match="task: this model is English-only"):
        tokenizer.for_task(None, "translate")
    with pytest.raises(OptionError, match="no language token"):
        _ = tokenizer.language_token


def test_a_vocabulary_without_language_tokens_is_english_only() -> None:
    assert not read_tokenizer(tokenizer_json([])).is_multilingual


def test_unknown_language_and_task() -> None:
    with pytest.raises(OptionError, match=r"language: the model has no 'fr'; it has de, en, ja"):
        small_tokenizer().for_task("fr", "transcribe")
    with pytest.raises(OptionError, match="task: must be one of transcribe, translate, not 'sing'"):
        small_tokenizer().for_task("en", "sing")


def test_special_text_is_ordinary_text() -> None:
    tokenizer = small_tokenizer()
    text = "a <|endoftext|> <|0.00|><|en|> b"
    tokens = tokenizer.encode(text)
    assert max(tokens) < tokenizer.eot
    assert tokenizer.decode(tokens) == text


@given(st.text())
@settings(max_examples=50, deadline=None)
def test_text_survives_encoding(text: str) -> None:
    tokenizer = small_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_timestamps_are_left_out_or_written() -> None:
    tokenizer = small_tokenizer()
    begin = tokenizer.timestamp_begin
    tokens = [begin, *tokenizer.encode(" hi"), begin + 54, tokenizer.eot]
    assert tokenizer.decode(tokens) == " hi<|endoftext|>"
    assert tokenizer.decode_with_timestamps(tokens) == "<|0.00|> hi<|1.08|><|endoftext|>"


def test_a_character_in_two_tokens_is_whole_or_replaced() -> None:
    tokenizer = small_tokenizer()
    tokens = tokenizer.encode("\U0001f984")
    assert len(tokens) > 1
    assert tokenizer.decode(tokens) == "\U0001f984"
    assert tokenizer.decode(tokens[:-1]) == "\ufffd"


def test_suppressed_symbols_of_a_small_vocabulary_leave_the_space() -> None:
    tokenizer = small_tokenizer()
    suppressed = set(tokenizer.non_speech_tokens)
    for symbol in '#()*[]{}<>"':
        assert tokenizer.encode(symbol)[0] in suppressed
    # A note of several tokens is suppressed by its first.
    assert len(tokenizer.encode("♭")) > 1
    assert tokenizer.encode("♭")[0] in suppressed
    for kept in (" ", ",", ".", "a", "'", "-"):
        assert tokenizer.encode(kept)[0] not in suppressed
    assert tokenizer.suppressed == tokenizer.non_speech_tokens


def test_the_generation_config_replaces_the_suppressed_tokens() -> None:
    assert read_tokenizer(tokenizer_json(), suppress_tokens=[7, 3, 7]).suppressed == (3, 7)
    for nothing in ([], None):
        tokenizer = read_tokenizer(tokenizer_json(), suppress_tokens=nothing)
        assert tokenizer.suppressed == tokenizer.non_speech_tokens


@pytest.mark.parametrize("tokens", ["1,2", [-1], [99999], [1.5]])
def test_suppressed_tokens_that_are_no_tokens(tokens: Any) -> None:
    with pytest.raises(ModelError, match=r"generation_config.json: suppress_tokens must be"):
        read_tokenizer(tokenizer_json(), suppress_tokens=tokens)


def test_words_begin_at_spaces_and_punctuation() -> None:
    tokenizer = small_tokenizer()
    text = " We shouldn't, he told us."
    tokens = [*tokenizer.encode(text), tokenizer.eot]
    words, word_tokens = tokenizer.split_to_word_tokens(tokens)
    assert words[-1] == "<|endoftext|>"
    assert "".join(words[:-1]) == text
    assert words[0] == " We"
    assert "," in words
    assert [token for run in word_tokens for token in run] == tokens


def test_unspaced_languages_are_split_at_characters() -> None:
    tokenizer = small_tokenizer("ja")
    text = "漢字です"
    words, word_tokens = tokenizer.split_to_word_tokens(tokenizer.encode(text))
    assert "".join(words) == text
    assert words[:2] == ["漢", "字"]
    assert [token for run in word_tokens for token in run] == tokenizer.encode(text)
    assert small_tokenizer("en").split_to_word_tokens(tokenizer.encode(text))[0] == [text]


@given(st.lists(st.integers(0, N_TEXT - 1), max_size=30))
@settings(max_examples=50, deadline=None)
def test_any_tokens_can_be_split(tokens: list[int]) -> None:
    tokenizer = small_tokenizer()
    for split in (tokenizer.split_tokens_on_unicode, tokenizer.split_tokens_on_spaces):
        words, word_tokens = split([*tokens, tokenizer.eot])
        runs = [token for run in word_tokens for token in run]
        assert len(words) == len(word_tokens)
        assert runs == [*tokens, tokenizer.eot][: len(runs)]


def test_splitting_bytes_that_make_no_character() -> None:
    # Two bytes that begin a character: one replacement for both, none left for the second.
    tokenizer = small_tokenizer()
    tokens = tokenizer.encode("♪")
    if len(tokens) == 1:
        tokens = tokenizer.encode("漢")
    assert tokenizer.split_tokens_on_unicode(tokens[:2])[0] == ["\ufffd"]


def test_a_tokenizer_of_another_model() -> None:
    n_vocab = small_tokenizer().vocabulary.n_vocab
    with pytest.raises(ModelError, match=f"has tokens up to {n_vocab - 1} but the model only has"):
        read_tokenizer(tokenizer_json(), n_vocab - 1)
    with pytest.raises(ModelError, match="no timestamp tokens and the model no room"):
        read_tokenizer(without_timestamps(), N_TEXT + 11)
    with pytest.raises(ModelError, match=f"has tokens up to {N_TEXT + 10} but the model only has"):
        read_tokenizer(without_timestamps(), N_TEXT + 10)
    with pytest.raises(ModelError, match="has no language tokens"):
        read_tokenizer(tokenizer_json([]), is_multilingual=True)


# The published vocabularies, against openai-whisper's tokenizer.

KINDS = ["multilingual", "multilingual-100", "en"]
TEXTS = [
    " And so, my fellow Americans: ask not (what) your country can do for you!",
    "안녕하세요 여러분, 你好 — こんにちは。 สวัสดี",
    "  spaces   and\ttabs\n\nnewlines \u00a0 \u3000",
    "it's we'll they'RE 3rd 1,000.50 $5 <|endoftext|><|0.00|> ♪♪ \U0001f984\u200d",
    "",
]


@cache
def published(kind: str) -> tuple[Tokenizer, Any]:
    """Our tokenizer of a published vocabulary, and openai-whisper's."""
    whisper = pytest.importorskip("whisper")
    ranks = "gpt2" if kind == "en" else "multilingual"
    file = Path(whisper.__file__).parent / "assets" / f"{ranks}.tiktoken"
    n_languages = 100 if kind == "multilingual-100" else 99
    content = tiktoken_vocabulary(file, LANGUAGES[:n_languages]).tokenizer_json()
    theirs = whisper.tokenizer.get_tokenizer(kind != "en", num_languages=n_languages)
    return read_tokenizer(content), theirs


@pytest.mark.reference
@pytest.mark.parametrize("kind", KINDS)
class TestAgainstOpenai:
    def test_special_tokens(self, kind: str) -> None:
        ours, theirs = published(kind)
        names = (
            "sot sot_sequence sot_sequence_including_notimestamps eot transcribe translate sot_lm "
            "sot_prev no_speech no_timestamps timestamp_begin non_speech_tokens language"
        )
        for name in names.split():
            assert getattr(ours, name) == getattr(theirs, name), name
        # Theirs come in the order of a set.
        assert ours.all_language_tokens == tuple(sorted(theirs.all_language_tokens))
        assert set(ours.all_language_codes) == set(theirs.all_language_codes)

    @pytest.mark.parametrize("text", TEXTS)
    def test_encoding(self, kind: str, text: str) -> None:
        ours, theirs = published(kind)
        assert ours.encode(text) == theirs.encoding.encode_ordinary(text)

    def test_a_blank(self, kind: str) -> None:
        ours, theirs = published(kind)
        assert ours.blank == tuple(theirs.encode(" "))

    def test_encoding_of_random_text(self, kind: str) -> None:
        ours, theirs = published(kind)
        random = np.random.RandomState(0)
        # Without what is newer than either library's Unicode tables.
        blocks = [(0x20, 0x7F), (0xA0, 0x250), (0x400, 0x500), (0x3040, 0x30FF), (0x4E00, 0x5000)]
        for _ in range(300):
            spans = [blocks[i] for i in random.randint(len(blocks), size=random.randint(1, 12))]
            text = "".join(chr(random.randint(*span)) for span in spans)
            assert ours.encode(text) == theirs.encoding.encode_ordinary(text)

    def test_decoding_of_random_tokens(self, kind: str) -> None:
        ours, theirs = published(kind)
        random = np.random.RandomState(1)
        for _ in range(200):
            tokens = random.randint(ours.vocabulary.n_vocab, size=random.randint(1, 20)).tolist()
            assert ours.decode(tokens) == theirs.decode(tokens)
            assert ours.decode_with_timestamps(tokens) == theirs.decode_with_timestamps(tokens)

    @pytest.mark.parametrize("language", ["en", "ja", "yue"])
    def test_words(self, kind: str, language: str) -> None:
        from whisper.tokenizer import get_tokenizer

        ours, theirs = published(kind)
        if language in ours.all_language_codes and kind != "en":
            ours = ours.for_task(language, "transcribe")
            n_languages = len(theirs.all_language_tokens)
            theirs = get_tokenizer(True, language=language, num_languages=n_languages)
        random = np.random.RandomState(2)
        # Single bytes are likely, so that characters break in all ways.
        limits = [256, ours.eot]
        for _ in range(200):
            tokens = [random.randint(limits[random.randint(2)]) for _ in range(12)] + [ours.eot]
            assert ours.split_to_word_tokens(tokens) == theirs.split_to_word_tokens(tokens)
        for text in TEXTS:
            tokens = [*ours.encode(text), ours.eot]
            assert ours.split_to_word_tokens(tokens) == theirs.split_to_word_tokens(tokens)


@pytest.mark.reference
@pytest.mark.parametrize(("ranks", "multilingual"), [("gpt2", False), ("multilingual", True)])
def test_padding_makes_no_model_multilingual(ranks: str, multilingual: bool) -> None:
    whisper = pytest.importorskip("whisper")
    file = Path(whisper.__file__).parent / "assets" / f"{ranks}.tiktoken"
    content = tiktoken_vocabulary(file, LANGUAGES[:99]).tokenizer_json()
    for n_vocab in (51865, 51872):
        assert read_tokenizer(content, n_vocab).is_multilingual == multilingual


@pytest.mark.reference
def test_published_lists_of_suppressed_tokens_are_openais() -> None:
    # What generation_config.json of the published models lists; control tokens are among them.
    configuration = pytest.importorskip("transformers.models.whisper.configuration_whisper")
    for kind, name in (("multilingual", "NON_SPEECH_TOKENS_MULTI"), ("en", "NON_SPEECH_TOKENS")):
        ours, _ = published(kind)
        listed = {token for token in getattr(configuration, name) if token < ours.eot}
        assert listed == set(ours.non_speech_tokens)
