"""CTranslate2 directories that its converter would not have written."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from tests.support.formats import ctranslate2 as writer
from tests.support.micro import micro_model
from whisper_npu.convert.source import open_source
from whisper_npu.errors import ModelError

CONV = b"encoder/conv1/weight\0"
QKV = b"encoder/layer_0/self_attention/linear_0/bias\0"


def replace_in(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


def header(*shape: int, type_number: int = 0, n_bytes: int | None = None) -> bytes:
    count = 4 * int(np.prod(shape)) if n_bytes is None else n_bytes
    return struct.pack(f"<B{len(shape)}IBI", len(shape), *shape, type_number, count)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"\6\0\0\0", b"\3\0\0\0", "version 3 of CTranslate2's format; 4 to 6 are read"),
        (b"WhisperSpec", b"WhimperSpec", "is a WhimperSpec, not a WhisperSpec"),
        (b"Spec\0", b"Spec!", "no name stands where one is due"),
        (b"\x0c\0Whi", b"\0\0Whi", "no name stands where one is due"),
        (b"WhisperSpec\0\3\0\0\0", b"WhisperSpec\0\3\0\0\0\xff\xff\xff\xff", "claims 4294967295"),
        (CONV, b"encoder/conv9/weight\0", "has no variable encoder/conv1/weight"),
        (
            CONV + header(2, 3, 3),
            CONV + header(2, 3, 4, n_bytes=72),
            r"cannot be \[2, 3, 4\] in 72 bytes",
        ),
        (
            CONV + header(2, 3, 3),
            CONV + header(2, 3, 3, n_bytes=1 << 31),
            r"cannot be \[2, 3, 3\] in 2147483648",
        ),
        (
            CONV + header(2, 3, 3),
            CONV + header(1 << 16, 1 << 13, 1, n_bytes=1 << 31),
            "2147483648 bytes does not fit into",
        ),
        (CONV + header(2, 3, 3), CONV + header(0, 3, 3, n_bytes=0), r"be \[0, 3, 3\] in 0 bytes"),
        (
            CONV + header(2, 3, 3),
            CONV + header(2, 3, 3, type_number=2, n_bytes=72),
            "weight is int16; float32",
        ),
        (
            CONV + header(2, 3, 3),
            CONV + header(2, 3, 3, type_number=77, n_bytes=72),
            "weight is of type 77; float32",
        ),
        (
            CONV + header(2, 3, 3),
            CONV + header(18, 1, 4, type_number=1, n_bytes=72),
            "weight is int8 and has no float32 scale for each row",
        ),
        (b"\0decoder/num", b"\0decoder/bum", "decoder_attention_heads must be a positive integer"),
        (b"activation\0\0\1\1\0\0\0\3", b"activation\0\0\1\1\0\0\0\1", "decoder/activation is 1; "),
        (b"pre_norm\0\0\1\1\0\0\0\1", b"pre_norm\0\0\1\1\0\0\0\0", "pre_norm is 0; Whisper's is 1"),
        (b"pre_norm\0\0\1\1\0\0\0\1", b"pre_norm\0\0\1\7\0\0\0\1", "is no scalar of 7 bytes"),
        (b"gs\0\0\1\1\0\0\0\0", b"gs\0\0\1\1\0\0\0\1", "scale_embeddings is 1; Whisper's is 0"),
        (QKV + header(6), QKV + header(3, 2), "is [3, 2], not|of the wrong shape"),
    ],
)
def test_damaged_models(micro: dict[str, Path], old: bytes, new: bytes, message: str) -> None:
    replace_in(micro["ctranslate2"] / "model.bin", old, new)
    with pytest.raises(ModelError, match=message) as caught:
        open_source(micro["ctranslate2"])
    assert "\n" not in str(caught.value)


def test_scales_that_do_not_fit(micro: dict[str, Path]) -> None:
    model = micro["ctranslate2-int8"] / "model.bin"
    scale = b"encoder/conv1/weight_scale\0"
    replace_in(model, scale + header(2), scale + header(2, 1))
    with pytest.raises(ModelError, match="conv1/weight is int8 and has no float32 scale"):
        open_source(micro["ctranslate2-int8"])


def test_rows_that_are_not_three_projections(micro: dict[str, Path]) -> None:
    model = micro["ctranslate2"] / "model.bin"
    replace_in(model, QKV + header(6), QKV + header(1, 6))
    with pytest.raises(ModelError, match="has 1 rows, which are not 3 projections"):
        open_source(micro["ctranslate2"])


def test_a_bias_for_keys_is_refused(micro: dict[str, Path]) -> None:
    model = micro["ctranslate2"] / "model.bin"
    content = bytearray(model.read_bytes())
    # The third of six numbers: the first of the keys'.
    struct.pack_into("<f", content, content.index(QKV + header(6)) + len(QKV) + 10 + 8, 1e-30)
    model.write_bytes(content)
    with pytest.raises(ModelError, match="linear_0/bias has a bias for keys; Whisper has none"):
        open_source(micro["ctranslate2"])


@pytest.mark.parametrize("keep", [3, 17, 100, 5000, -1, -30])
def test_truncated_files(micro: dict[str, Path], keep: int) -> None:
    model = micro["ctranslate2"] / "model.bin"
    model.write_bytes(model.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.bin: byte \d+ .* does not fit into the \d+"):
        open_source(micro["ctranslate2"])


def test_bytes_after_the_end(micro: dict[str, Path]) -> None:
    model = micro["ctranslate2"] / "model.bin"
    model.write_bytes(model.read_bytes() + b"12345")
    with pytest.raises(ModelError, match="5 bytes follow the aliases"):
        open_source(micro["ctranslate2"])


def test_aliases(micro: dict[str, Path]) -> None:
    # The bias of one convolution as an alias of the other's, which has to be found by name.
    model = micro["ctranslate2"] / "model.bin"
    old = model.read_bytes()
    bias = b"\x13\0encoder/conv2/bias\0" + header(2)
    at = old.index(bias)
    content = old[:at] + old[at + len(bias) + 8 :]
    count_at = content.index(b"Spec\0") + 9
    (count,) = struct.unpack_from("<I", content, count_at)
    content = content[:count_at] + struct.pack("<I", count - 1) + content[count_at + 4 :]
    last = content.rindex(b"\1\0\0\0\x1a\0decoder/projection")
    alias = writer._string("encoder/conv2/bias") + writer._string("encoder/conv1/bias")
    model.write_bytes(content[:last] + b"\2" + content[last + 1 :] + alias)
    source = open_source(micro["ctranslate2"])
    (read,) = source.blocks("model.encoder.conv2.bias")
    expected = micro_model(timestamps=1).weights["model.encoder.conv1.bias"]
    np.testing.assert_array_equal(read, expected)


def test_an_output_layer_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = micro_model(timestamps=1)
    variables = writer._variables(model)
    projection = variables["decoder/embeddings/weight"].copy()
    variables["decoder/projection/weight"] = projection
    monkeypatch.setattr(writer, "_variables", lambda _: dict(variables))
    # The writer's alias of that name points to the same numbers.
    writer.write_ctranslate2(model, tmp_path)
    old = (tmp_path / "model.bin").read_bytes()
    at = old.rindex(b"\1\0\0\0\x1a\0decoder/projection")
    (tmp_path / "model.bin").write_bytes(old[:at] + b"\0\0\0\0")
    open_source(tmp_path)
    replace_in(tmp_path / "model.bin", projection.tobytes()[:64], bytes(64))
    with pytest.raises(ModelError, match=r"proj_out\.weight differs from"):
        open_source(tmp_path)


def test_vocabulary_files(micro: dict[str, Path]) -> None:
    folder = micro["ctranslate2"]
    text = open_source(folder).tokenizer
    names = json.loads((folder / "vocabulary.json").read_text())
    (folder / "vocabulary.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    (folder / "vocabulary.json").rename(folder / "kept")
    assert open_source(folder).tokenizer == text
    (folder / "vocabulary.txt").unlink()
    with pytest.raises(ModelError, match=r"neither tokenizer\.json nor vocabulary\.json nor"):
        open_source(folder)
    (folder / "tokenizer.json").write_text(str(text), encoding="utf-8")
    assert open_source(folder).tokenizer == text


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({}, "is not a list of tokens"),
        ([1], "is not a list of tokens"),
        (["a"], r"has no <\|endoftext\|>"),
        (["a b", "<|endoftext|>"], "a token has ' '; it is not a byte-level BPE"),
        (["a", "a", "<|endoftext|>"], "a token is in the vocabulary twice"),
        (["ab", "<|endoftext|>"], "token 0 is not made of two tokens before it"),
        (["a", "<|endoftext|>"], r"has no <\|startoftranscript\|>"),
        (["a", "<|endoftext|>", "x", "x"], "two special tokens have the same name"),
    ],
)
def test_vocabularies_that_are_not_whispers(
    micro: dict[str, Path], names: object, message: str
) -> None:
    (micro["ctranslate2"] / "vocabulary.json").write_text(json.dumps(names))
    with pytest.raises(ModelError, match=rf"vocabulary\.json: .*{message}"):
        open_source(micro["ctranslate2"])


def test_settings_come_along(micro: dict[str, Path]) -> None:
    config = micro["ctranslate2"] / "config.json"
    generation = open_source(micro["ctranslate2"]).generation
    assert generation["alignment_heads"] == [[0, 0]]
    assert generation["suppress_tokens"] == [1, 2]
    config.write_text('{"suppress_ids": [99999]}')
    with pytest.raises(ModelError, match=r"vocabulary\.json: suppress_tokens must be token ids"):
        open_source(micro["ctranslate2"])
    config.unlink()
    assert "alignment_heads" not in open_source(micro["ctranslate2"]).generation
