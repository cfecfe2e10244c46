"""Vocabularies of seeded checkpoints against tiktoken and against themselves."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.support import vocabulary
from tests.support.checkpoints import TEXT_TOKENS, Recipe

TEXTS = [
    "",
    " ",
    "  two  spaces   three ",
    "line\nbreak\r\n\ttab\u00a0no-break\u3000wide",
    "It's we'll they'd I'm you've don't 'quoted' 'TIS",
    "1234567890 3.14 1,000,000 ½ ٣٤٥ 二〇二六",
    "naïve café façade über Ångström",
    "日本語のテキスト、中文文本。한국어 텍스트",
    "Привет мир! Ελληνικά עברית العربية हिन्दी ไทย",
    "🎉👩‍👩‍👧‍👦🏳️‍🌈 emoji\ufe0f ♪♪♪",
    "combining: e\u0301 a\u0308\u0301 \u200b zero width",
    "<|endoftext| > and (brackets) [music] -- #hash @at ~ ` \\ /",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa        aaaa",
    "\x00\x01\x7f\x80\x85\u2028\ufffd\U0010ffff",
]


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="module")
def small() -> vocabulary.Vocabulary:
    return vocabulary.small_vocabulary(vocabulary.LANGUAGES)


@pytest.fixture(scope="module")
def tokenizer(small: vocabulary.Vocabulary) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(small.tokenizer_json()))


def test_the_small_vocabulary_is_always_the_same(small: vocabulary.Vocabulary) -> None:
    digest = hashlib.sha256(json.dumps(small.tokenizer_json()).encode()).hexdigest()
    assert (len(small.tokens), digest[:16]) == (756, "20e24e190ade5a9a")


def test_every_token_is_another(small: vocabulary.Vocabulary) -> None:
    assert len(set(small.tokens)) == len(small.tokens)
    assert len(set(small.specials)) == len(small.specials)


def test_merges_come_back_from_the_ranks(small: vocabulary.Vocabulary) -> None:
    assert tuple(vocabulary.merges_from_ranks(list(small.tokens))) == small.merges


def test_ranks_that_are_not_merges_are_refused() -> None:
    tokens = [bytes([byte]) for byte in range(256)] + [b"abc"]
    with pytest.raises(ValueError, match=r"token 256 b'abc' is not a merge of two tokens"):
        vocabulary.merges_from_ranks(tokens)


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives_the_small_vocabulary(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(ids(tokenizer, text), skip_special_tokens=False) == text


def test_special_tokens_follow_the_text_tokens(
    small: vocabulary.Vocabulary, tokenizer: Tokenizer
) -> None:
    names = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|yue|>", "<|translate|>"]
    names += ["<|transcribe|>", "<|nospeech|>", "<|notimestamps|>", "<|0.00|>", "<|30.00|>"]
    expected = [756, 757, 758, 857, 858, 859, 862, 863, 864, 2364]
    assert [small.special(name) for name in names] == expected
    assert [tokenizer.token_to_id(name) for name in names] == expected
    assert small.n_vocab == 2365


def test_a_torn_ranks_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "torn.tiktoken").write_text("IQ== 0\nIg== 2\n")
    with pytest.raises(ValueError, match=r"torn\.tiktoken: ranks are not 0 to 1"):
        vocabulary.tiktoken_vocabulary(tmp_path / "torn.tiktoken", ["en"])


def published(name: str) -> tuple[Tokenizer, object]:
    """The vocabulary rebuilt from openai-whisper's file, and openai-whisper's own."""
    import whisper
    from whisper.tokenizer import get_encoding

    file = Path(whisper.__file__).parent / "assets" / f"{name}.tiktoken"
    rebuilt = vocabulary.tiktoken_vocabulary(file, vocabulary.LANGUAGES[:-1])
    return Tokenizer.from_str(json.dumps(rebuilt.tokenizer_json())), get_encoding(name)


@pytest.fixture(scope="module", params=["multilingual", "gpt2"])
def pair(request: pytest.FixtureRequest) -> tuple[Tokenizer, object]:
    return published(request.param)


@pytest.mark.reference
def test_published_vocabularies_encode_as_tiktoken(pair) -> None:
    rebuilt, tiktoken = pair
    for text in [*TEXTS, vocabulary.SEED_TEXT]:
        assert ids(rebuilt, text) == tiktoken.encode(text)


@pytest.mark.reference
@given(text=st.text(max_size=60))
def test_published_vocabularies_encode_any_text_as_tiktoken(pair, text: str) -> None:
    rebuilt, tiktoken = pair
    pieces = rebuilt.pre_tokenizer.pre_tokenize_str(text)
    # Piece by piece, for tiktoken takes the names of special tokens as text here.
    found = [token.id for piece, _ in pieces for token in rebuilt.model.tokenize(piece)]
    assert found == tiktoken.encode(text, disallowed_special=())


@pytest.mark.reference
def test_published_special_tokens_have_their_ids(pair) -> None:
    rebuilt, tiktoken = pair
    for name in tiktoken.special_tokens_set:
        spelled = "<|nocaptions|>" if name == "<|nospeech|>" else name
        assert rebuilt.token_to_id(spelled) == tiktoken.encode_single_token(name)


@pytest.mark.reference
@pytest.mark.parametrize("vocab", TEXT_TOKENS)
def test_layouts_that_need_no_file_are_those_of_the_file(vocab: str) -> None:
    import whisper

    name = {"multilingual": "multilingual", "en": "gpt2"}[vocab]
    file = Path(whisper.__file__).parent / "assets" / f"{name}.tiktoken"
    size = "tiny" if vocab == "multilingual" else "tiny.en"
    recipe = Recipe(size, vocab, tiktoken=file)
    made, layout = recipe.vocabulary(), recipe.layout()
    assert layout.end_of_text == made.special("<|endoftext|>")
    assert layout.no_speech == made.special("<|nocaptions|>")
    assert layout.timestamp_begin == made.special("<|0.00|>")
    assert layout.n_vocab == made.n_vocab == {"multilingual": 51865, "en": 51864}[vocab]


@pytest.mark.reference
def test_languages_are_in_openais_order() -> None:
    from whisper.tokenizer import LANGUAGES

    assert list(LANGUAGES) == vocabulary.LANGUAGES
