from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from whisper_npu.errors import ModelError
from whisper_npu.model.checkpoint import load_checkpoint
from whisper_npu.model.dims import KNOWN_DIMENSIONS, dimensions_from_config
from whisper_npu.model.weight_shapes import weight_specification

from .conftest import SMALL, SMALL_CONFIG, random_weights

EMBEDDING = "model.decoder.embed_tokens.weight"


def edit_config(folder: Path, **changes: object) -> None:
    (folder / "config.json").write_text(json.dumps({**SMALL_CONFIG, **changes}))


def test_loads_a_directory(small_directory: Path) -> None:
    checkpoint = load_checkpoint(small_directory)
    assert checkpoint.dims == SMALL
    assert checkpoint.generation == {}
    for name, array in random_weights(SMALL).items():
        np.testing.assert_array_equal(checkpoint.weights[name], array)


def test_generation_config_is_read(small_directory: Path) -> None:
    (small_directory / "generation_config.json").write_text('{"alignment_heads": [[0, 1]]}')
    assert load_checkpoint(small_directory).generation == {"alignment_heads": [[0, 1]]}


def test_float16(small_directory: Path) -> None:
    half = {name: array.astype(np.float16) for name, array in random_weights(SMALL).items()}
    save_file(half, small_directory / "model.safetensors")
    weights = load_checkpoint(small_directory).weights
    for name, array in half.items():
        assert weights[name].dtype == np.float32
        np.testing.assert_array_equal(weights[name], array)


def test_bfloat16(small_directory: Path) -> None:
    # Written by hand: NumPy has no bfloat16, so the library's NumPy interface cannot.
    header: dict[str, object] = {}
    data = b""
    for name, array in random_weights(SMALL).items():
        raw = (array.view(np.uint32) >> 16).astype("<u2").tobytes()
        header[name] = {
            "dtype": "BF16",
            "shape": array.shape,
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    (small_directory / "model.safetensors").write_bytes(
        len(text).to_bytes(8, "little") + text + data
    )
    weights = load_checkpoint(small_directory).weights
    for name, array in random_weights(SMALL).items():
        truncated = (array.view(np.uint32) & 0xFFFF0000).view(np.float32)
        np.testing.assert_array_equal(weights[name], truncated)


def shard(folder: Path) -> dict[str, str]:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for index in range(3):
        file = f"model-{index + 1:05}-of-00003.safetensors"
        part = {name: weights[name] for name in sorted(weights)[index::3]}
        save_file(part, folder / file)
        weight_map.update(dict.fromkeys(part, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return weight_map


def test_shards(small_directory: Path) -> None:
    whole = dict(load_checkpoint(small_directory).weights)
    shard(small_directory)
    parts = load_checkpoint(small_directory).weights
    assert parts.keys() == whole.keys()
    for name in whole:
        np.testing.assert_array_equal(parts[name], whole[name])


def test_missing_shard(small_directory: Path) -> None:
    shard(small_directory)
    (small_directory / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model-00002-of-00003.safetensors: shard .* is missing"):
        load_checkpoint(small_directory)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "", "..", "a/b"])
def test_shard_names_stay_in_the_folder(small_directory: Path, name: str) -> None:
    shard(small_directory)
    index = small_directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {EMBEDDING: name}}))
    with pytest.raises(ModelError, match="not the plain name of a safetensors file"):
        load_checkpoint(small_directory)


def test_a_tied_output_may_be_stored_twice(small_directory: Path) -> None:
    weights = random_weights(SMALL)
    weights["proj_out.weight"] = weights[EMBEDDING]
    save_file(weights, small_directory / "model.safetensors")
    assert "proj_out.weight" not in load_checkpoint(small_directory).weights
    weights["proj_out.weight"] = weights[EMBEDDING] + 1
    save_file(weights, small_directory / "model.safetensors")
    with pytest.raises(ModelError, match=r"proj_out\.weight differs"):
        load_checkpoint(small_directory)


def test_all_tensor_problems_are_reported_at_once(small_directory: Path) -> None:
    weights = random_weights(SMALL)
    del weights["model.encoder.conv1.bias"], weights["model.decoder.layer_norm.bias"]
    weights["model.extra"] = np.zeros(1, np.float32)
    weights[EMBEDDING] = np.zeros((51, 24), np.float32)
    save_file(weights, small_directory / "model.safetensors")
    with pytest.raises(ModelError) as caught:
        load_checkpoint(small_directory)
    message = str(caught.value)
    assert "2 missing: model.encoder.conv1.bias, model.decoder.layer_norm.bias" in message
    assert "1 unexpected: model.extra" in message
    assert f"1 of the wrong shape: {EMBEDDING} is [51, 24], not [50, 24]" in message
    assert "\n" not in message


def test_an_integer_tensor_is_refused(small_directory: Path) -> None:
    weights = random_weights(SMALL)
    weights[EMBEDDING] = weights[EMBEDDING].astype(np.int32)
    save_file(weights, small_directory / "model.safetensors")
    with pytest.raises(ModelError, match=r"embed_tokens.weight is I32"):
        load_checkpoint(small_directory)


@pytest.mark.parametrize("keep", [0, 4, 100, 20000, -4])
def test_truncated_safetensors(small_directory: Path, keep: int) -> None:
    file = small_directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model.safetensors: not a readable safetensors file"):
        load_checkpoint(small_directory)


def test_a_file_that_changes_after_it_was_opened(small_directory: Path) -> None:
    file = small_directory / "model.safetensors"
    weights = load_checkpoint(small_directory).weights
    whole = file.read_bytes()
    file.write_bytes(whole[:-4])
    with pytest.raises(ModelError, match=r"model.safetensors: ends within tensor "):
        dict(weights)
    file.unlink()
    with pytest.raises(ModelError, match=r"model.safetensors: no such file"):
        weights[EMBEDDING]


def test_each_tensor_has_memory_of_its_own(
    small_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So small that many blocks are begun.
    monkeypatch.setattr("whisper_npu.model.safetensors_file._BLOCK", 8192)
    monkeypatch.setattr("whisper_npu.model.safetensors_file._LARGE", 8192)
    stored = load_checkpoint(small_directory).weights
    for _ in range(2):
        read = {name: stored[name] for name in stored}
        for name, array in random_weights(SMALL).items():
            np.testing.assert_array_equal(read[name], array)
            read[name][...] = np.nan


def test_missing_directory_and_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere: does not exist"):
        load_checkpoint(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="file: is not a directory"):
        load_checkpoint(tmp_path / "file")
    with pytest.raises(ModelError, match=r"config\.json: no such file"):
        load_checkpoint(tmp_path)


def test_no_weights(small_directory: Path) -> None:
    (small_directory / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"neither model.safetensors nor"):
        load_checkpoint(small_directory)


@pytest.mark.parametrize("text", ["", "{", "[]", "nan", '"x"', "\xff", "[" * 100_000])
def test_damaged_config(small_directory: Path, text: str) -> None:
    (small_directory / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=r"config\.json"):
        load_checkpoint(small_directory)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("d_model", None),
        ("d_model", "384"),
        ("d_model", 0),
        ("d_model", True),
        ("d_model", 1 << 40),
        ("d_model", 25),
        ("vocab_size", -1),
        ("encoder_layers", 2.5),
        ("encoder_ffn_dim", 100),
        ("activation_function", "relu"),
        ("scale_embedding", True),
    ],
)
def test_config_values_that_are_not_whisper(
    small_directory: Path, field: str, value: object
) -> None:
    edit_config(small_directory, **{field: value})
    with pytest.raises(ModelError, match=field):
        load_checkpoint(small_directory)


def test_specification_counts_whispers_parameters() -> None:
    # openai-whisper's model card: 39 M, 74 M, 244 M, 769 M, 1550 M, 809 M parameters.
    for name, millions in {
        "tiny": 39,
        "base": 74,
        "small": 244,
        "medium": 769,
        "large": 1550,
    }.items():
        shapes = weight_specification(KNOWN_DIMENSIONS[name]).values()
        count = sum(int(np.prod(shape)) for shape in shapes) / 1e6
        assert millions * 0.95 < count < millions * 1.03


def test_dimensions_of_large_v3_from_its_config() -> None:
    config = {
        "num_mel_bins": 128,
        "max_source_positions": 1500,
        "d_model": 1280,
        "encoder_attention_heads": 20,
        "encoder_layers": 32,
        "encoder_ffn_dim": 5120,
        "vocab_size": 51866,
        "max_target_positions": 448,
        "decoder_attention_heads": 20,
        "decoder_layers": 32,
        "decoder_ffn_dim": 5120,
        "activation_function": "gelu",
        "scale_embedding": False,
    }
    assert dimensions_from_config(config, "config.json") == KNOWN_DIMENSIONS["large-v3"]


def test_more_layers_than_tensors(small_directory: Path) -> None:
    edit_config(small_directory, decoder_layers=1 << 20)
    with pytest.raises(ModelError, match=r"too few for 1048578 layers"):
        load_checkpoint(small_directory)
