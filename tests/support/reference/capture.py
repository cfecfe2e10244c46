"""Every intermediate tensor of openai-whisper's model, under the names of our graphs' tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from whisper.audio import HOP_LENGTH, N_SAMPLES, log_mel_spectrogram
from whisper.model import Whisper, disable_sdpa

from tests.support.reference.layers import Inputs

Tensors = dict[str, np.ndarray]


def capture_layers(model: Whisper, inputs: Inputs) -> dict[tuple[str, str], np.ndarray]:
    """All tensors by (phase, name), in the order in which our graphs compute them."""
    encoder = capture_encoder(model, inputs.features)
    prompt, *steps = capture_decoder(
        model, encoder["states"], inputs.prompt.tolist(), inputs.steps.tolist()
    )
    cross = {name: prompt.pop(name) for name in list(prompt) if name.startswith("cross.")}
    phases = {
        "mel": capture_mel(inputs.samples, model.dims.n_mels),
        "encoder": encoder,
        "cross": cross,
        "prefill": prompt,
        **{f"step {i + 1}": tensors for i, tensors in enumerate(steps)},
    }
    return {
        (phase, name): array for phase, tensors in phases.items() for name, array in tensors.items()
    }


def capture_mel(samples: np.ndarray, n_mels: int) -> Tensors:
    """The log-mel spectrogram of a recording, as ``whisper.transcribe`` computes it."""
    mel = log_mel_spectrogram(samples, n_mels, padding=N_SAMPLES)
    return {"mel": mel[:, : len(samples) // HOP_LENGTH].numpy()}


def capture_encoder(model: Whisper, features: np.ndarray) -> Tensors:
    """What the encoder computes from features [b, n_mels, 2 n_audio_ctx], in order."""
    found: Tensors = {}
    encoder = model.encoder
    with _recording(found) as record:
        for conv in (encoder.conv1, encoder.conv2):
            name = "conv1" if conv is encoder.conv1 else "conv2"
            record.output(conv, name, lambda x: x.transpose(1, 2))
            # The activation is a function there, not a module that could be observed.
            record.output(conv, f"{name}.gelu", lambda x: F.gelu(x).transpose(1, 2))
        record.input(encoder.blocks[0], "embedded")
        for i, block in enumerate(encoder.blocks):
            _observe_block(record, block, f"encoder.{i}")
        record.output(encoder.ln_post, "states")
        encoder(torch.from_numpy(features))
    return found


def capture_decoder(
    model: Whisper, states: np.ndarray, prompt: Sequence[int], steps: Sequence[int]
) -> list[Tensors]:
    """What the decoder computes for a prompt, and then for each of the tokens of ``steps``.

    ``states`` are the encoder's, [1, n_audio_ctx, n_audio_state]. The first element also holds
    the cross keys and values. Tokens go through openai-whisper's own key-value cache.
    """
    phases: list[Tensors] = []
    decoder, found = model.decoder, {}
    audio = torch.from_numpy(states)
    n_head = model.dims.n_text_head

    def split_heads(x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], n_head, -1).transpose(1, 2)

    with _recording(found) as record:
        record.input(decoder.blocks[0], "embedded")
        for i, block in enumerate(decoder.blocks):
            _observe_block(record, block, f"decoder.{i}")
            record.output(block.cross_attn.key, f"cross.{i}.k", split_heads)
            record.output(block.cross_attn.value, f"cross.{i}.v", split_heads)
        record.output(decoder.ln, "final_ln")
        # Recording was set up first, so that it sees new keys and values and not the cache.
        cache, hooks = model.install_kv_cache_hooks()
        for tokens in (list(prompt), *([token] for token in steps)):
            logits = decoder(torch.tensor([tokens]), audio, kv_cache=cache)
            found["logits"] = logits.numpy()
            phases.append(dict(found))
            found.clear()
        for hook in hooks:
            hook.remove()
    return phases


def _observe_block(record: _Recorder, block: nn.Module, prefix: str) -> None:
    record.output(block.attn_ln, f"{prefix}.attn_ln")
    record.output(block.attn.query, f"{prefix}.q")
    record.output(block.attn.key, f"{prefix}.k")
    record.output(block.attn.value, f"{prefix}.v")
    record.input(block.attn.out, f"{prefix}.attn")
    record.output(block.attn.out, f"{prefix}.attn_out")
    after_attention = block.mlp_ln
    if block.cross_attn is not None:
        after_attention = block.cross_attn_ln
        record.output(block.cross_attn_ln, f"{prefix}.cross_ln")
        record.output(block.cross_attn.query, f"{prefix}.cross_q")
        record.input(block.cross_attn.out, f"{prefix}.cross")
        record.output(block.cross_attn.out, f"{prefix}.cross_out")
        record.input(block.mlp_ln, f"{prefix}.cross_residual")
    record.input(after_attention, f"{prefix}.attn_residual")
    record.output(block.mlp_ln, f"{prefix}.mlp_ln")
    for module, name in zip(block.mlp, ("fc1", "gelu", "fc2"), strict=True):
        record.output(module, f"{prefix}.{name}")
    record.output(block, f"{prefix}.residual")


class _Recorder:
    def __init__(self, found: Tensors) -> None:
        self._found = found
        self.hooks: list[Any] = []

    def output(self, module: nn.Module, name: str, view: Callable[[Tensor], Tensor] | None = None):
        """Record what a module returns."""

        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self._found[name] = (view(output) if view else output).numpy().copy()

        self.hooks.append(module.register_forward_hook(hook))

    def input(self, module: nn.Module, name: str) -> None:
        """Record what a module is given."""

        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._found[name] = inputs[0].numpy().copy()

        self.hooks.append(module.register_forward_pre_hook(hook))


@contextmanager
def _recording(found: Tensors) -> Iterator[_Recorder]:
    recorder = _Recorder(found)
    try:
        # Plain products and softmax instead of torch's fused attention.
        with torch.no_grad(), disable_sdpa():
            yield recorder
    finally:
        for hook in recorder.hooks:
            hook.remove()
