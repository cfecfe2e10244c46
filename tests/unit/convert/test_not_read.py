"""What is no model that can be read: one line says what it is and what to do; nothing hangs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.formats.torch_pt import write_pickled
from tests.support.micro import micro_model
from tests.support.model_folders import split_tokenizer
from whisper_npu.convert.source import open_source
from whisper_npu.errors import ModelError
from whisper_npu.model.checkpoint import load_checkpoint


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (
            ["adapter_config.json", "adapter_model.safetensors", "optimizer.pt"],
            r"a PEFT adapter and no model: merge it into its base model first: .*merge_and_unload",
        ),
        (["config.json", "adapter_model.bin"], "a PEFT adapter and no model"),
        (["config.json", "tf_model.h5"], "a model of TensorFlow: .*from_tf=True.*save_pretrained"),
        (["config.json", "tf_model-00001-of-00002.h5"], "a model of TensorFlow"),
        (["config.json", "flax_model.msgpack"], "a model of Flax: .*from_flax=True.*save_pret"),
        (["config.json", "weights.npz"], "a model of MLX: get the safetensors"),
        (["config.json", "weights.safetensors"], "a model of MLX: get the safetensors"),
        (["config.json", "encoder_model.onnx"], "a model of ONNX: get the safetensors"),
        (["config.json", "openvino_encoder_model.xml"], "a model of OpenVINO"),
        (["AudioEncoder.mlmodelc"], "a model of Core ML"),
        (["whisper.gguf"], "a GGUF model"),
        (["canary.nemo"], "a model of NeMo, which is no Whisper"),
    ],
)
def test_folders_of_other_programs(tmp_path: Path, names: list[str], what: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match=f"{tmp_path.name}: is {what}") as caught:
        open_source(tmp_path)
    assert "\n" not in str(caught.value)
    for name in names:
        if name not in ("config.json", "optimizer.pt"):
            with pytest.raises(ModelError, match=f"{name}: is {what}"):
                open_source(tmp_path / name)


def test_a_ctranslate2_file_stands_for_its_folder(micro: dict[str, Path]) -> None:
    source = open_source(micro["ctranslate2"] / "model.bin")
    assert (source.kind, source.path) == ("ctranslate2", micro["ctranslate2"])
    # Not every file of that name is one.
    micro["f32.bin"].rename(micro["f32.bin"].with_name("model.bin"))
    assert open_source(micro["f32.bin"].with_name("model.bin")).kind == "ggml"


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("put", [fifo, link_to_a_device, Path.mkdir])
@pytest.mark.parametrize(
    ("name", "file"),
    [
        *(("sharded", name) for name in ("config.json", "generation_config.json")),
        *(("sharded", name) for name in ("tokenizer.json", "model.safetensors.index.json")),
        ("huggingface", "model.safetensors"),
        ("ctranslate2", "model.bin"),
        ("ctranslate2", "config.json"),
        ("ctranslate2", "vocabulary.json"),
        *((name, "") for name in ("f32.bin", "float32.pt")),
        *(("bin", name) for name in ("pytorch_model.bin", "vocab.json", "merges.txt")),
        *(("bin", name) for name in ("added_tokens.json", "config.json")),
    ],
)
def test_what_is_no_file_is_refused_at_once(
    micro: dict[str, Path], tmp_path: Path, name: str, file: str, put: Callable[[Path], None]
) -> None:
    """A FIFO would be waited for, and a device be read without an end."""
    if name == "bin":
        shutil.copytree(micro["sharded"], tmp_path / "bin")
        for shard in (tmp_path / "bin").glob("*.safetensors*"):
            shard.unlink()
        write_pickled(micro_model(timestamps=1), tmp_path / "bin")
        split_tokenizer(tmp_path / "bin")
    path = tmp_path / name / file if file else tmp_path / name
    path.unlink()
    put(path)
    with pytest.raises(ModelError, match=r": (is not a|cannot be|has neither)") as caught:
        open_source(tmp_path / name)
    assert "\n" not in str(caught.value)
    if name in ("sharded", "huggingface") and file != "tokenizer.json":
        with pytest.raises(ModelError, match=r"(is not a|cannot be)"):
            load_checkpoint(tmp_path / name)
