"""The vocabulary: memory, decoding as the tokenizers library does it, and files that do not fit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
import tracemalloc
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from tests.support.checkpoints import Recipe
from tests.support.model_folders import split_tokenizer
from tests.unit.decoding_fakes import read_tokenizer, small_tokenizer, special, tokenizer_json
from whisper_npu.convert import convert
from whisper_npu.errors import ModelError
from whisper_npu.hub.folders import built_in_directory
from whisper_npu.model.checkpoint import load_checkpoint
from whisper_npu.text.tokenizer import Tokenizer
from whisper_npu.text.vocabulary import Vocabulary

N_TEXT = 756


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer.json: no such file"):
        Tokenizer.from_dir(tmp_path, 1000, {})
    file = tmp_path / "tokenizer.json"
    for content in ("", "{}", "[]", '{"model": 1', "\0\1"):
        file.write_text(content)
        with pytest.raises(ModelError, match=r"tokenizer.json: (cannot be read|must hold)"):
            Tokenizer.from_dir(tmp_path, 1000, {})
    content = tokenizer_json()
    content["pre_tokenizer"] = None
    file.write_text(json.dumps(content))
    with pytest.raises(ModelError, match="has no pre-tokenizer"):
        Tokenizer.from_dir(tmp_path, 3000, {})


def vocab_as(value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["model"].update(vocab=value)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (vocab_as(["a", "b"]), "model.vocab and added_tokens must be there"),
        (vocab_as("ab"), "model.vocab and added_tokens must be there"),
        (vocab_as({"a": "5"}), "no name or an id that is none"),
        (vocab_as({"a": True}), "no name or an id that is none"),
        (vocab_as({"a": 1.0}), "no name or an id that is none"),
        (vocab_as({"a": -1}), "no name or an id that is none"),
        (lambda content: content.update(added_tokens="ab"), "must be there"),
        (lambda content: content.update(added_tokens=[7]), "must be there"),
        (lambda content: content.update(added_tokens=[{"id": 7}]), "must be there"),
        (lambda content: content["added_tokens"][0].update(id=[7]), "an id that is none"),
        (lambda content: content["added_tokens"][0].update(content=7), "has no name"),
        (lambda content: content["added_tokens"][0].update(content=[7]), "must be there"),
    ],
)
def test_files_that_are_no_vocabulary(
    change: Callable[[dict[str, Any]], None], problem: str
) -> None:
    content = tokenizer_json()
    change(content)
    with pytest.raises(ModelError, match=rf"tokenizer.json: .*{problem}"):
        read_tokenizer(content, 3000)


def test_a_file_that_only_the_library_refuses_is_refused_when_it_is_needed() -> None:
    content = tokenizer_json()
    content["model"]["merges"] = ["no such"]
    tokenizer = read_tokenizer(content, suppress_tokens=[1])
    assert tokenizer.decode([tokenizer.blank[0]]) == " "
    with pytest.raises(ModelError, match=r"tokenizer.json: cannot be read as a tokenizer: "):
        tokenizer.encode("a")


def test_tokens_in_any_order_with_gaps_and_strange_names() -> None:
    content = tokenizer_json()
    vocab = content["model"]["vocab"]
    names = {id: name for name, id in vocab.items()}
    # Missing, empty, and of the characters that mark other tokens, at either end of a name.
    del names[700]
    names[705], names[706], names[707], names[708] = "", "a<", "|b|>", "c<|"
    names[709] = "<|a"
    items = list(names.items())
    np.random.RandomState(1).shuffle(items)
    content["model"]["vocab"] = {name: id for id, name in items}
    content["added_tokens"].reverse()
    changed = read_tokenizer(content, small_tokenizer().vocabulary.n_vocab, suppress_tokens=[1])
    assert changed.vocabulary.unused == (700,)
    assert changed.vocabulary.specials == small_tokenizer().vocabulary.specials
    assert list(changed.vocabulary.specials.values()) == list(range(N_TEXT, N_TEXT + 11))
    assert changed.timestamp_begin == small_tokenizer().timestamp_begin
    assert [changed.decode([id]) for id in range(704, 710)] == [
        small_tokenizer().decode([704]), "", "a<", "|b|>", "c<|", "<|a",
    ]  # fmt: skip
    same = [id for id in range(N_TEXT) if not 700 <= id < 710]
    assert changed.decode(same) == small_tokenizer().decode(same)
    strangers = [700, -1, changed.vocabulary.n_vocab, 10**12]
    assert changed.decode_with_timestamps(strangers) == ""


def test_a_vocabulary_takes_little_more_memory_than_its_file(tmp_path: Path) -> None:
    content = tokenizer_json()
    room = 20000
    for token in content["added_tokens"]:
        token["id"] += room
    content["model"]["vocab"] |= {f"{i:05}": N_TEXT + i for i in range(room)}
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(content))
    n_vocab = small_tokenizer().vocabulary.n_vocab + room
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        vocabulary = Vocabulary(file, n_vocab)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert vocabulary.decode([N_TEXT + 12345]) == "12345"
    # Where a name begins and ends takes 8 bytes; as strings in a dictionary they take 150.
    assert after - before - file.stat().st_size < 20 * n_vocab


def test_the_library_is_only_imported_for_text() -> None:
    code = """
    import sys
    from whisper_npu.hub.folders import built_in_directory
    from whisper_npu.text.tokenizer import Tokenizer
    from whisper_npu.text.vocabulary import Vocabulary

    tokenizer = Tokenizer.from_dir(built_in_directory(), 2632, {"suppress_tokens": [1]})
    assert tokenizer.decode(tokenizer.blank) == " "
    assert "tokenizers" not in sys.modules
    assert tuple(tokenizer.encode(" ")) == tokenizer.blank
    assert "tokenizers" in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


@cache
def built_in() -> tuple[Tokenizer, tokenizers.Tokenizer]:
    """Our tokenizer of the built-in model, and the library's."""
    file = built_in_directory() / "tokenizer.json"
    library = tokenizers.Tokenizer.from_file(str(file))
    return Tokenizer.from_dir(file.parent, library.get_vocab_size(), {}), library


def test_every_token_is_decoded_as_the_library_does() -> None:
    ours, library = built_in()
    for id in range(library.get_vocab_size()):
        theirs = library.decode([id], skip_special_tokens=False)
        assert ours.decode_with_timestamps([id]) == theirs, id


def test_random_tokens_are_decoded_as_the_library_does() -> None:
    ours, library = built_in()
    random = np.random.RandomState(3)
    # Single bytes are likely, so that characters break in all ways.
    limits = [256, library.get_vocab_size()]
    for _ in range(3000):
        size = random.randint(1, 20)
        ids = [random.randint(limits[random.randint(2)]) for _ in range(size)]
        theirs = library.decode(ids, skip_special_tokens=False)
        assert ours.decode_with_timestamps(ids) == theirs


def remove(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["added_tokens"].remove(special(content, name))


def rename(name: str, other: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: special(content, name).update(content=other)


def add_text_before_the_timestamps(content: dict[str, Any]) -> None:
    special(content, "<|notimestamps|>")["id"] += 1
    for token in content["added_tokens"]:
        if token["content"][2:3].isdigit():
            token["id"] += 1
    id = special(content, "<|notimestamps|>")["id"] - 1
    content["added_tokens"].append({**content["added_tokens"][-1], "id": id, "content": "word"})


def change_a_text_token(content: dict[str, Any]) -> None:
    vocab = content["model"]["vocab"]
    rarest = max(vocab, key=vocab.__getitem__)
    vocab["\u3042"] = vocab.pop(rarest)
    content["model"]["merges"].pop()


def repeat_an_id(content: dict[str, Any]) -> None:
    special(content, "<|translate|>")["id"] += 1


MISFITS = [
    (repeat_an_id, "two tokens have the same id"),
    (remove("<|startoftranscript|>"), r"has no <\|startoftranscript\|> token"),
    (remove("<|endoftext|>"), r"has no <\|endoftext\|> token"),
    (remove("<|notimestamps|>"), r"has no <\|notimestamps\|> token"),
    (remove("<|startofprev|>"), r"has no <\|startofprev\|> token"),
    (remove("<|transcribe|>"), r"has no <\|transcribe\|> token"),
    (remove("<|3.00|>"), "timestamp tokens do not follow each other"),
    (remove("<|0.00|>"), "timestamp tokens do not follow each other"),
    (add_text_before_the_timestamps, r"token 'word' \(\d+\) is not below <\|endoftext\|>"),
    (rename("<|startofprev|>", "Ġword"), r"token 'Ġword' \(\d+\) is not below <\|endoftext\|>"),
    (change_a_text_token, "is not a byte-level BPE: a token has 'あ'"),
]


@pytest.mark.parametrize(("change", "problem"), MISFITS)
def test_vocabularies_that_are_not_whispers(
    change: Callable[[dict[str, Any]], None], problem: str
) -> None:
    content = tokenizer_json()
    change(content)
    with pytest.raises(ModelError, match=rf"tokenizer.json: .*{problem}") as error:
        read_tokenizer(content, small_tokenizer().vocabulary.n_vocab + 1)
    assert "\n" not in str(error.value)


def added_after(*names: str) -> dict[str, Any]:
    content = tokenizer_json()
    last = content["added_tokens"][-1]
    content["added_tokens"] += [
        {**last, "id": last["id"] + 1 + i, "content": name} for i, name in enumerate(names)
    ]
    return content


def test_tokens_after_the_timestamps_mean_nothing() -> None:
    n_vocab = small_tokenizer().vocabulary.n_vocab
    # One more is in the model only, as embeddings are padded.
    tokenizer = read_tokenizer(added_after("[noise]", "<|xx|>", "語"), n_vocab + 4)
    vocabulary = tokenizer.vocabulary
    assert vocabulary.unused == tuple(range(n_vocab, n_vocab + 4))
    assert vocabulary.timestamp_end == n_vocab
    assert vocabulary.specials == small_tokenizer().vocabulary.specials
    assert tokenizer.decode_with_timestamps(range(n_vocab, n_vocab + 4)) == ""
    text = " the water [noise]<|xx|>"
    assert tokenizer.encode(text) == small_tokenizer().encode(text)


def test_added_tokens_that_the_model_does_not_have() -> None:
    # Added to the tokenizer, and the embedding was not made larger.
    n_vocab = small_tokenizer().vocabulary.n_vocab
    for room in (0, 1):
        vocabulary = read_tokenizer(added_after("[noise]", "[music]"), n_vocab + room).vocabulary
        assert vocabulary.unused == tuple(range(n_vocab, n_vocab + room))


def test_text_tokens_that_the_model_does_not_have() -> None:
    content = tokenizer_json()
    n_vocab = small_tokenizer().vocabulary.n_vocab
    content["model"]["vocab"]["waterwater"] = n_vocab
    with pytest.raises(ModelError, match=rf"has tokens up to {n_vocab} but the model only has"):
        read_tokenizer(content, n_vocab)


def test_unlisted_timestamps_end_at_thirty_seconds() -> None:
    content = tokenizer_json()
    listed = content["added_tokens"]
    content["added_tokens"] = [t for t in listed if not t["content"][2:3].isdigit()]
    n_vocab = small_tokenizer().vocabulary.n_vocab
    vocabulary = read_tokenizer(content, n_vocab + 8).vocabulary
    assert vocabulary.timestamp_end == n_vocab
    assert vocabulary.unused == tuple(range(n_vocab, n_vocab + 8))


@pytest.fixture
def split(seeded_directory: Callable[[Recipe], Path], tmp_path: Path) -> Path:
    """A model with vocab.json and what belongs to it."""
    shutil.copytree(seeded_directory(Recipe("nano")), tmp_path / "split")
    split_tokenizer(tmp_path / "split")
    return tmp_path / "split"


@pytest.mark.parametrize("described", [False, True])
def test_a_tokenizer_in_parts(
    seeded_directory: Callable[[Recipe], Path], tmp_path: Path, described: bool
) -> None:
    whole = seeded_directory(Recipe("nano"))
    parts = tmp_path / "parts"
    shutil.copytree(whole, parts)
    split_tokenizer(parts, described)
    n_vocab = load_checkpoint(whole).dims.n_vocab
    ours, theirs = (Tokenizer.from_dir(folder, n_vocab, {}) for folder in (parts, whole))
    assert ours.vocabulary.specials == theirs.vocabulary.specials
    assert ours.timestamp_begin == theirs.timestamp_begin
    assert ours.vocabulary.unused == theirs.vocabulary.unused == ()
    text = " It's the water, and 12 naïve <|en|> \n words."
    assert ours.encode(text) == theirs.encode(text)
    assert ours.decode_with_timestamps(range(n_vocab)) == theirs.decode_with_timestamps(
        range(n_vocab)
    )
    # A conversion writes the file that was not there.
    convert(parts, tmp_path / "converted", calibrate=False)
    made = Tokenizer.from_dir(tmp_path / "converted", n_vocab, {})
    assert made.vocabulary.file.name == "tokenizer.json"
    assert "#version" not in made.vocabulary.file.read_text(encoding="utf-8")
    assert made.encode(text) == theirs.encode(text)


def write(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content, encoding="utf-8") and None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda folder: (folder / "added_tokens.json").unlink(), r"vocab\.json: has no <\|starto"),
        (lambda folder: (folder / "merges.txt").unlink(), r"tokenizer\.json: no such file"),
        (write("merges.txt", "a b\na b c"), r"merges\.txt: 'a b c' is no pair of tokens"),
        (write("merges.txt", "a qqq"), r"vocab\.json: cannot be read as a tokenizer"),
        (write("vocab.json", "[]"), r"vocab\.json: must hold a JSON object"),
        (
            write("vocab.json", '{"\\ud800": 1, "<|endoftext|>": 0}'),
            r"vocab\.json: the vocabulary is not Unicode text",
        ),
        (write("added_tokens.json", '{"a": "b"}'), r"vocab\.json: .*"),
        (write("added_tokens.json", "7"), r"added_tokens\.json: must hold a JSON object"),
    ],
)
def test_parts_of_a_tokenizer_that_are_damaged(
    split: Path, change: Callable[[Path], None], problem: str
) -> None:
    change(split)
    n_vocab = load_checkpoint(split).dims.n_vocab
    with pytest.raises(ModelError, match=problem) as error:
        Tokenizer.from_dir(split, n_vocab, {}).encode("text")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "tokens", [[], 7, {"a": {"content": "b"}}, {"1": {}}, {"1": {"content": []}}]
)
def test_described_tokens_that_are_damaged(split: Path, tokens: object) -> None:
    (split / "added_tokens.json").unlink()
    (split / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": tokens}))
    with pytest.raises(ModelError, match=r"tokenizer_config\.json: added_tokens_decoder is dam"):
        Tokenizer.from_dir(split, 3000, {})
