"""Model folders as programs write them: one small model, whose tensors are named in many ways."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.support.micro import micro_model, write_huggingface, write_tokenizer
from whisper_npu.backends.opening import numpy_model
from whisper_npu.model.checkpoint import load_checkpoint
from whisper_npu.model.weight_names import TIED_OUTPUT
from whisper_npu.model.weight_shapes import ENCODER_POSITIONS, TOKEN_EMBEDDING

Tensors = dict[str, np.ndarray]

STATE = 8


def write_folder(folder: Path) -> None:
    """The model as transformers saves it, which it loads without a word."""
    model = micro_model(state=STATE, timestamps=1)
    # What openai-whisper and transformers compute, to float32's last places.
    length, half = model.dims.n_audio_ctx, STATE // 2
    rates = np.exp(-np.log(10000) / (half - 1) * np.arange(half))
    angles = np.arange(length)[:, None] * rates
    positions = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
    model.weights[ENCODER_POSITIONS][...] = positions
    write_huggingface(model, folder)
    write_tokenizer(model, folder)
    end = model.n_text
    ids = {f"{name}_token_id": end for name in ("pad", "bos", "eos")}
    edit(folder / "config.json", **ids, decoder_start_token_id=end + 1)


def edit(file: Path, **changes: object) -> None:
    """Change fields of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    """Change the tensors of a folder."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def copy_with(folder: Path, to: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """A copy of a folder with other tensors."""
    shutil.copytree(folder, to)
    rewrite(to, change)
    return to


def renamed(rename: Callable[[str], str]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {rename(name): array for name, array in tensors.items()}


def _mixed(tensors: Tensors) -> Tensors:
    kinds = (np.float16, np.float32, np.float64)
    named = enumerate(tensors.items())
    return {name: array.astype(kinds[i % 3]) for i, (name, array) in named}


def _without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {n: array for n, array in tensors.items() if n != name}


_SURPLUS = {
    "extra": np.zeros(3, np.float32),
    # Of a layer that config.json does not have, and of a bias that has no effect.
    "model.decoder.layers.7.fc1.weight": np.zeros((4 * STATE, STATE), np.float32),
    "model.encoder.layers.0.self_attn.k_proj.bias": np.ones(STATE, np.float32),
    "model.encoder.step": np.zeros((), np.int64),
}

# The same model, as transformers loads it too.
OF_TRANSFORMERS: Mapping[str, Callable[[Tensors], Tensors]] = {
    "no prefix": renamed(lambda name: name.removeprefix("model.")),
    "no encoder positions": _without(ENCODER_POSITIONS),
    "surplus": lambda tensors: tensors | _SURPLUS,
    "output beside the embedding": lambda tensors: {
        **tensors,
        TIED_OUTPUT: tensors[TOKEN_EMBEDDING].copy(),
    },
    "output in the place of the embedding": renamed(
        lambda name: TIED_OUTPUT if name == TOKEN_EMBEDDING else name
    ),
    "float64": lambda tensors: {name: a.astype(np.float64) for name, a in tensors.items()},
    "float16, float32 and float64": _mixed,
}
# The same model, as training programs leave it; transformers finds no weight in these.
WRAPPED: Mapping[str, Callable[[Tensors], Tensors]] = {
    "peft": renamed(lambda name: f"base_model.model.{name}"),
    "distributed": renamed(lambda name: f"module.{name}"),
    "compiled": renamed(lambda name: f"_orig_mod.{name}"),
    "compiled and distributed": renamed(lambda name: f"module._orig_mod.{name}"),
    "compiled layers": renamed(lambda name: name.replace("layers.0.", "layers.0._orig_mod.")),
    "sharded": renamed(lambda name: f"_fsdp_wrapped_module.{name}"),
}


def split_tokenizer(folder: Path, described: bool = False) -> None:
    """Put the parts that older versions of transformers saved in the place of tokenizer.json.

    ``described``: the tokens that are not in vocab.json are in tokenizer_config.json.
    """
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    file.unlink()
    special = {token["content"]: token["id"] for token in content["added_tokens"]}
    end = "<|endoftext|>"
    # The first of them is in both files.
    vocab = {**content["model"]["vocab"], end: special.pop(end)}
    pairs = content["model"]["merges"]
    lines = ["#version: 0.2", *(p if isinstance(p, str) else " ".join(p) for p in pairs), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    (folder / "vocab.json").write_text(json.dumps(vocab))
    config: dict[str, object] = dict.fromkeys(("bos_token", "eos_token", "unk_token"), end)
    if described:
        tokens = {str(id): {"content": name, "special": True} for name, id in special.items()}
        config["added_tokens_decoder"] = tokens
    else:
        (folder / "added_tokens.json").write_text(json.dumps(special))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def logits(folder: Path) -> np.ndarray:  # -> [3, n_vocab]
    """Those of ``inputs`` and ``PROMPT``, in float32."""
    model = numpy_model(load_checkpoint(folder))
    session = model.decoder(model.encode(inputs(model.dims.n_mels, model.dims.n_frames)))
    return session.prefill([PROMPT], [0, 1, 2])[0].copy()


PROMPT = [262, 3, 5]


def inputs(n_mels: int, n_frames: int) -> np.ndarray:  # -> [1, n_mels, n_frames]
    return np.random.RandomState(1).standard_normal((1, n_mels, n_frames)).astype(np.float32)
