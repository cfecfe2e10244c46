"""One checkpoint through every format: the same tensors, the same tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.support.formats.ctranslate2 import quantized
from tests.support.formats.ggml import q8_0
from tests.support.formats.torch_pt import write_pt
from tests.support.micro import micro_model
from whisper_npu.convert import tensors
from whisper_npu.convert.source import Source, open_source
from whisper_npu.errors import ModelError
from whisper_npu.model.dims import dimensions_from_config
from whisper_npu.model.weight_shapes import weight_specification
from whisper_npu.text.tokenizer import Tokenizer

FLOAT32 = ["float32.pt", "ggml-f32.bin", "ctranslate2-float32", "sharded"]
TEXT = "And so, they're 12 people: 今日は 🎵 naïve  \n\n <|en|> aaaa\u0301"


def opened(formats: dict[str, Path], name: str, nano: Path) -> Source:
    """A .pt has no vocabulary of its own."""
    return open_source(formats[name], nano if name.endswith(".pt") else None)


def whole(source: Source, name: str) -> np.ndarray:
    return np.concatenate(list(source.blocks(name)))


@pytest.fixture(scope="module")
def original(nano: Path) -> dict[str, np.ndarray]:
    return load_file(nano / "model.safetensors")


@pytest.mark.parametrize("name", FLOAT32)
def test_float32_tensors_are_the_same_bytes_in_every_format(
    formats: dict[str, Path], nano: Path, original: dict[str, np.ndarray], name: str
) -> None:
    source = opened(formats, name, nano)
    config = json.loads((nano / "config.json").read_text())
    assert source.dims == dimensions_from_config(config, "config.json")
    assert list(source.shapes.items()) == list(weight_specification(source.dims).items())
    assert source.dtype == "float32"
    for tensor, array in original.items():
        read = whole(source, tensor)
        assert (read.dtype, read.shape) == (np.float32, array.shape)
        assert read.tobytes() == array.tobytes(), tensor


@pytest.mark.parametrize("name", FLOAT32)
def test_tokens_are_the_same_in_every_format(
    formats: dict[str, Path], nano: Path, tmp_path: Path, name: str
) -> None:
    source = opened(formats, name, nano)
    assert source.tokenizer is not None
    (tmp_path / "tokenizer.json").write_text(source.tokenizer, encoding="utf-8")
    n_vocab = source.dims.n_vocab
    ours = Tokenizer.from_dir(tmp_path, n_vocab, source.generation)
    theirs = Tokenizer.from_dir(nano, n_vocab, {})
    corpus = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    for text in (TEXT, corpus):
        assert ours.encode(text) == theirs.encode(text)
    assert ours.decode(ours.encode(TEXT)) == TEXT
    for token in range(n_vocab):
        assert ours.decode_with_timestamps([token]) == theirs.decode_with_timestamps([token])
    for field in ("sot_sequence", "non_speech_tokens", "all_language_codes", "no_speech"):
        assert getattr(ours, field) == getattr(theirs, field)


@pytest.mark.parametrize("name", FLOAT32)
def test_configurations_are_those_of_the_original(
    formats: dict[str, Path], nano: Path, name: str
) -> None:
    source = opened(formats, name, nano)
    config = json.loads((nano / "config.json").read_text())
    generation = json.loads((nano / "generation_config.json").read_text())
    # How weights are stored is the business of what writes them.
    config.pop("torch_dtype")
    assert {k: v for k, v in source.config.items() if k != "torch_dtype"} == config
    if name.endswith((".pt", ".bin")):
        # These formats do not say which heads align.
        generation.pop("alignment_heads")
    assert source.generation == generation


@pytest.mark.parametrize("name", ["float16.pt", "ctranslate2-float16"])
def test_float16(
    formats: dict[str, Path], nano: Path, original: dict[str, np.ndarray], name: str
) -> None:
    source = opened(formats, name, nano)
    assert source.dtype == "float16"
    for tensor, array in original.items():
        assert whole(source, tensor).tobytes() == half(array).tobytes()


def half(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float16).astype(np.float32)


def test_ggml_float16(
    formats: dict[str, Path], nano: Path, original: dict[str, np.ndarray]
) -> None:
    source = opened(formats, "ggml-f16.bin", nano)
    assert source.dtype == "float16"
    for tensor, array in original.items():
        kept = array.ndim == 1 or "embed_positions" in tensor
        assert whole(source, tensor).tobytes() == (array if kept else half(array)).tobytes()


def test_ggml_q8_0(formats: dict[str, Path], original: dict[str, np.ndarray]) -> None:
    source = open_source(formats["ggml-q8_0.bin"])
    for tensor, array in original.items():
        read = whole(source, tensor)
        if array.ndim == 2 and "embed_positions" not in tensor:
            raw = np.frombuffer(q8_0(array), np.uint8).reshape(-1, 34)
            scale = raw[:, :2].copy().view("<f2").astype(np.float32)
            expected = raw[:, 2:].view(np.int8) * scale
            assert read.tobytes() == expected.tobytes()
            # Not more than half a step, and the error of a scale in float16.
            assert np.abs(expected.reshape(array.shape) - array).max() < 0.006 * abs(array).max()
        else:
            assert read.tobytes() == (array if array.ndim != 3 else half(array)).tobytes()


def test_ctranslate2_int8(formats: dict[str, Path], original: dict[str, np.ndarray]) -> None:
    source = open_source(formats["ctranslate2-int8"])
    for tensor, array in original.items():
        read = whole(source, tensor)
        if array.ndim > 1 and "embed_positions" not in tensor:
            values, scale = quantized(array)
            expected = values / scale.reshape(-1, *[1] * (array.ndim - 1))
            assert read.tobytes() == expected.astype(np.float32).tobytes(), tensor
        else:
            assert read.tobytes() == array.tobytes()


def test_an_int8_directory_is_a_source(micro: dict[str, Path]) -> None:
    stored = load_file(micro["int8"] / "model.safetensors")
    source = open_source(micro["int8"])
    assert source.dtype == "int8"
    assert source.shapes.keys() == weight_specification(source.dims).keys()
    for name in source.shapes:
        expected = stored[name]
        if expected.dtype == np.int8:
            scale = stored[f"{name}_scale"].reshape(-1, *[1] * (expected.ndim - 1))
            expected = expected * scale
        assert whole(source, name).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", ["float32.pt", "bfloat16.pt", "huggingface", "int8"])
@pytest.mark.parametrize("limit", [1, 50, 10_000])
def test_blocks_are_whole_rows_within_the_limit(
    micro: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str, limit: int
) -> None:
    source = open_source(micro[name])
    expected = {tensor: whole(source, tensor) for tensor in source.shapes}
    monkeypatch.setattr(tensors, "BLOCK_BYTES", limit)
    for tensor, shape in source.shapes.items():
        blocks = list(source.blocks(tensor))
        for block in blocks:
            assert block.dtype == np.float32
            assert block.flags.c_contiguous
            assert block.flags.writeable
            assert block.shape[1:] == shape[1:]
            assert block.nbytes <= limit or len(block) == 1
        assert len(blocks) == max(1, -(-expected[tensor].nbytes // limit)) or limit < 10_000
        np.testing.assert_array_equal(np.concatenate(blocks), expected[tensor])


def test_bfloat16(micro: dict[str, Path]) -> None:
    source = open_source(micro["bfloat16.pt"])
    assert source.dtype == "bfloat16"
    for name, array in micro_model(timestamps=1).weights.items():
        truncated = (array.view(np.uint32) & 0xFFFF0000).view(np.float32)
        np.testing.assert_array_equal(whole(source, name), truncated)


def test_files_are_all_that_was_read(formats: dict[str, Path], nano: Path) -> None:
    def names(name: str) -> set[str]:
        return {file.name for file in opened(formats, name, nano).files}

    assert names("float32.pt") == {"float32.pt", "tokenizer.json"}
    assert names("ggml-f16.bin") == {"ggml-f16.bin"}
    assert names("ctranslate2-int8") == {"model.bin", "config.json", "vocabulary.json"}
    shards = {f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)}
    configs = {"config.json", "generation_config.json", "tokenizer.json"}
    assert names("sharded") == shards | configs | {"model.safetensors.index.json"}


def test_a_file_that_shrinks_while_it_is_read(micro: dict[str, Path]) -> None:
    source = open_source(micro["float32.pt"])
    micro["float32.pt"].write_bytes(b"")
    with pytest.raises(ModelError, match=r"float32\.pt: ends within a tensor"):
        whole(source, "model.encoder.conv1.weight")
    micro["float32.pt"].unlink()
    with pytest.raises(ModelError, match=r"float32\.pt: no such file"):
        whole(source, "model.encoder.conv1.weight")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a Hugging Face folder, an openai-whisper .pt file, a whisper.cpp"),
        (b"GGUF\3\0\0\0", "is a GGUF file"),
        (b"tjgg", "ggjt file of llama.cpp"),
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "before torch 1.6: load and save it"),
        (b"\x10\0\0\0\0\0\0\0{}", "one file of a model; name the folder"),
    ],
)
def test_other_files_are_refused_by_what_they_are(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "model").write_bytes(content)
    with pytest.raises(ModelError, match=f"model: .*{message}"):
        open_source(tmp_path / "model")


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere: does not exist"):
        open_source(tmp_path / "nowhere")
    neither = r"neither model.safetensors nor pytorch_model.bin \(Hugging Face\) nor model.bin"
    with pytest.raises(ModelError, match=neither):
        open_source(tmp_path)
    for i in range(7):
        (tmp_path / f"model{i}.pt").touch()
    files = "model0.pt, model1.pt, model2.pt, model3.pt, model4.pt and 2 more"
    with pytest.raises(ModelError, match=f"is no model, but holds files that may be: {files}$"):
        open_source(tmp_path)


@pytest.mark.parametrize("name", ["f32.bin", "float32.pt", "huggingface", "ctranslate2"])
def test_a_million_layers_are_refused_before_they_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, micro: dict[str, Path], name: str
) -> None:
    # The dimensions are replaced, for each format states them in its own way.
    reader = {
        "f32.bin": "ggml",
        "float32.pt": "openai_pt",
        "huggingface": "huggingface",
        "ctranslate2": "ctranslate2",
    }[name]

    def many(*args: object) -> object:
        return replace(micro_model().dims, n_audio_layer=1 << 20)

    monkeypatch.setattr(f"whisper_npu.convert.{reader}.dimensions_from_config", many)
    with pytest.raises(ModelError, match=r"too few for 1048577 layers"):
        open_source(micro[name])


def test_a_tokenizer_that_cannot_be_looked_at(micro: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"^x{300}: cannot be read: [^:]+$"):
        open_source(micro["f32.bin"], Path("x" * 300))


def test_the_tokenizer_may_be_named(micro: dict[str, Path], nano: Path, tmp_path: Path) -> None:
    write_pt(replace(micro_model(), tokens=[]), tmp_path / "lone.pt")
    source = open_source(tmp_path / "lone.pt")
    assert source.tokenizer is None
    assert source.generation == {}
    assert "eos_token_id" not in source.config
    with pytest.raises(ModelError, match=r"tokenizer.json: has tokens up to 2363"):
        open_source(tmp_path / "lone.pt", nano)
    with pytest.raises(ModelError, match=r"none.json: no such file"):
        open_source(tmp_path / "lone.pt", tmp_path / "none.json")
    text = open_source(micro["f32.bin"]).tokenizer
    assert text is not None
    (tmp_path / "named.json").write_text(text)
    named = open_source(tmp_path / "lone.pt", tmp_path / "named.json")
    assert named.tokenizer == text
    assert named.config["eos_token_id"] == 261
    (tmp_path / "named.json").rename(tmp_path / "tokenizer.json")
    assert open_source(tmp_path / "lone.pt").tokenizer == text


def test_a_named_tokenizer_replaces_that_of_the_file(
    micro: dict[str, Path], tmp_path: Path
) -> None:
    text = open_source(micro["f32.bin"]).tokenizer
    assert text is not None
    (tmp_path / "other").mkdir()
    changed = json.loads(text)
    changed["added_tokens"][3]["content"] = "<|changed|>"
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(changed))
    source = open_source(micro["f32.bin"], tmp_path / "other")
    assert source.tokenizer == json.dumps(changed)
    assert source.files == (micro["f32.bin"], tmp_path / "other" / "tokenizer.json")
