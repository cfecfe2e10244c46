"""Hugging Face directories as a source; what load_checkpoint refuses is refused here too."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from whisper_npu.convert.source import open_source
from whisper_npu.errors import ModelError
from whisper_npu.model import json_file

EMBEDDING = "model.decoder.embed_tokens.weight"


def rewrite(folder: Path, **changes: np.ndarray | None) -> None:
    """The weights with tensors (a double underscore stands for a dot) added, changed, removed."""
    tensors = load_file(folder / "model.safetensors")
    for name, array in changes.items():
        tensors.pop(name.replace("__", "."), None)
        if array is not None:
            tensors[name.replace("__", ".")] = array
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("kind", ["huggingface", "int8"])
def test_an_output_layer_that_is_stored_too(micro: dict[str, Path], kind: str) -> None:
    tensors = load_file(micro[kind] / "model.safetensors")
    same: dict[str, np.ndarray | None] = {"proj_out__weight": tensors[EMBEDDING]}
    if kind == "int8":
        same["proj_out__weight_scale"] = tensors[f"{EMBEDDING}_scale"]
    rewrite(micro[kind], **same)
    assert "proj_out.weight" not in open_source(micro[kind]).shapes
    other = tensors[EMBEDDING].copy()
    other[-1, -1] += 1
    rewrite(micro[kind], **{**same, "proj_out__weight": other})
    with pytest.raises(ModelError, match=r"proj_out\.weight differs from model\.decoder\.embed"):
        open_source(micro[kind])


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (None, r"needs model.decoder.embed_tokens.weight_scale, float32 \[271\];"),
        (np.ones(3, np.float32), r"weight_scale, float32 \[271\], not F32 \[3\];"),
        (np.ones((271, 1), np.float32), r"weight_scale, float32 \[271\], not F32 \[271, 1\];"),
        (np.ones(271, np.float16), r"weight_scale, float32 \[271\], not F16 \[271\];"),
    ],
)
def test_scales_that_do_not_fit(
    micro: dict[str, Path], scale: np.ndarray | None, message: str
) -> None:
    rewrite(micro["int8"], model__decoder__embed_tokens__weight_scale=scale)
    with pytest.raises(ModelError, match=rf"int8: int8 tensor {EMBEDDING} .*{message}"):
        open_source(micro["int8"])


def test_a_scale_in_another_shard(micro: dict[str, Path]) -> None:
    folder = micro["int8"]
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    scale = f"{EMBEDDING}_scale"
    save_file({scale: tensors.pop(scale)}, folder / "b.safetensors")
    save_file(tensors, folder / "a.safetensors")
    places = {**dict.fromkeys(tensors, "a.safetensors"), scale: "b.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    message = rf"a\.safetensors: int8 tensor {EMBEDDING} has {scale} in another shard"
    with pytest.raises(ModelError, match=message):
        open_source(folder)


def test_weights_by_other_names(micro: dict[str, Path]) -> None:
    folder = micro["huggingface"]
    rewrite(folder, extra=np.zeros(1, np.float32), model__encoder__conv1__bias=None)
    with pytest.raises(ModelError, match=r"1 missing: model.encoder.conv1.bias; 1 unexpected: ex"):
        open_source(folder)


def test_a_header_that_is_too_long(micro: dict[str, Path]) -> None:
    file = micro["huggingface"] / "model.safetensors"
    file.write_bytes((1 << 40).to_bytes(8, "little") + file.read_bytes()[8:])
    with pytest.raises(ModelError, match=r"not a readable safetensors file: a header of 1099511"):
        open_source(micro["huggingface"])


def test_a_json_file_that_is_too_large(
    micro: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_file, "LARGEST_FILE", 10)
    with pytest.raises(ModelError, match=r"config\.json: has more than the"):
        open_source(micro["huggingface"])


@pytest.mark.parametrize("name", [["a"], "a" * 300, "a/../b", "a\0b", "\ud800", ".hidden", 7])
def test_names_of_shards(micro: dict[str, Path], name: object) -> None:
    index = micro["sharded"] / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(ModelError, match="is not the plain name of a safetensors file"):
        open_source(micro["sharded"])


def test_a_tensor_in_two_shards(micro: dict[str, Path]) -> None:
    first, second = sorted(micro["sharded"].glob("*.safetensors"))
    tensors = load_file(first) | load_file(second)
    save_file(tensors, second)
    with pytest.raises(ModelError, match="is also in another shard"):
        open_source(micro["sharded"])


def test_a_tokenizer_of_another_model(micro: dict[str, Path], nano: Path) -> None:
    folder = micro["huggingface"]
    (folder / "tokenizer.json").write_bytes((nano / "tokenizer.json").read_bytes())
    with pytest.raises(ModelError, match=r"huggingface/tokenizer\.json: has tokens up to 2363"):
        open_source(folder)


@pytest.mark.parametrize("value", [-(10**12), 10**12, "x", None])
def test_timestamps_that_begin_nowhere(micro: dict[str, Path], value: object) -> None:
    folder = micro["huggingface"]
    text = open_source(micro["ctranslate2"]).tokenizer
    (folder / "tokenizer.json").write_text(str(text), encoding="utf-8")
    open_source(folder)
    (folder / "generation_config.json").write_text(json.dumps({"no_timestamps_token_id": value}))
    with pytest.raises(ModelError, match="no_timestamps_token_id is not a token id below 271"):
        open_source(folder)
