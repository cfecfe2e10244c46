"""Models that cannot be used: one line that names the culprit, exit code 3, and no outputs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.audio_samples import encode
from tests.support.checkpoints import Recipe
from tests.support.signals import noise
from whisper_npu.cli import main


@pytest.fixture
def model(
    seeded_directory: Callable[[Recipe], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A copy of a small model, to be damaged, beside good.wav in the current folder."""
    shutil.copytree(seeded_directory(Recipe("nano")), tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    Path("good.wav").write_bytes(encode(noise(16000), 16000, "WAV"))
    return Path("model")


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def nowhere(model: Path) -> None:
    shutil.rmtree(model)


def a_file(model: Path) -> None:
    shutil.rmtree(model)
    model.write_text("model")


def no_config(model: Path) -> None:
    (model / "config.json").unlink()


def config_is_not_json(model: Path) -> None:
    (model / "config.json").write_text("model: nano")


def config_is_a_fifo(model: Path) -> None:
    (model / "config.json").unlink()
    os.mkfifo(model / "config.json")


def tokenizer_is_a_device(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    (model / "tokenizer.json").symlink_to("/dev/zero")


def weights_are_a_fifo(model: Path) -> None:
    (model / "model.safetensors").unlink()
    os.mkfifo(model / "model.safetensors")


def no_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()


def an_adapter(model: Path) -> None:
    shutil.rmtree(model)
    model.mkdir()
    (model / "adapter_config.json").write_text("{}")
    (model / "adapter_model.safetensors").touch()


def truncated_weights(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def wrong_shapes(model: Path) -> None:
    edit(model / "config.json", max_target_positions=100)


def no_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()


def tokenizer_is_not_json(model: Path) -> None:
    (model / "tokenizer.json").write_text("{")


def tokenizer_of_a_larger_model(model: Path) -> None:
    file = model / "tokenizer.json"
    tokens = json.loads(file.read_text())["added_tokens"]
    more = {**tokens[-1], "id": tokens[-1]["id"] + 1, "content": "<|30.02|>"}
    edit(file, added_tokens=[*tokens, more])


def tokenizer_without_start(model: Path) -> None:
    file = model / "tokenizer.json"
    tokens = json.loads(file.read_text())["added_tokens"]
    edit(file, added_tokens=[t for t in tokens if t["content"] != "<|startoftranscript|>"])


def heads_that_are_no_pairs(model: Path) -> None:
    edit(model / "generation_config.json", alignment_heads=[7])


def n_mels_that_nobody_has(model: Path) -> None:
    edit(model / "config.json", num_mel_bins=81)


@pytest.mark.parametrize(
    ("damage", "culprit"),
    [
        (nowhere, "model: does not exist"),
        (a_file, "model: is not a Hugging Face folder, an openai-whisper .pt file, a whisper.cpp"),
        (no_config, "config.json: no such file"),
        (config_is_not_json, "config.json: cannot be read as JSON"),
        (config_is_a_fifo, "config.json: cannot be read: is not a regular file"),
        (tokenizer_is_a_device, "tokenizer.json: cannot be read: is not a regular file"),
        (weights_are_a_fifo, "model.safetensors: cannot be read: is not a regular file"),
        (no_weights, "model: has neither model.safetensors nor pytorch_model.bin"),
        (an_adapter, "model: is a PEFT adapter and no model: merge it into its base model first"),
        (truncated_weights, "model.safetensors: not a readable safetensors file"),
        (
            wrong_shapes,
            "of the wrong shape: model.decoder.embed_positions.weight is [448, 64], not [100, 64]",
        ),
        (no_tokenizer, "tokenizer.json: no such file"),
        (tokenizer_is_not_json, "tokenizer.json: cannot be read as JSON"),
        (tokenizer_of_a_larger_model, "tokenizer.json: has tokens up to"),
        (tokenizer_without_start, "tokenizer.json: has no <|startoftranscript|> token"),
        (heads_that_are_no_pairs, "generation_config.json: alignment_heads has '7'"),
        (n_mels_that_nobody_has, "model.encoder.conv1.weight is [64, 80, 3], not [64, 81, 3]"),
    ],
)
def test_unusable_models(
    model: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    culprit: str,
) -> None:
    damage(model)
    assert main(["transcribe", "good.wav", "--model", "model", "--output_dir", "out"]) == 3
    error = capsys.readouterr().err
    assert error.startswith("whisper-npu: error: ")
    assert culprit in error
    assert error.count("\n") == 1
    assert not list(Path("out").iterdir())
