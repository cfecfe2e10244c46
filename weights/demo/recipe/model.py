"""Whisper's architecture in torch, module for module, with the names of openai-whisper.

Two things are added for training, neither of them shipped: an encoder window may be a slice of the
30 seconds (`start`), which makes most steps several times cheaper while every position is still
seen; and a linear head with a CTC loss over characters, which makes the encoder listen long before
the decoder alone would.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weights.demo.recipe.mel import N_MELS
from weights.demo.recipe.vocab import VOCAB_SIZE
from whisper_npu.model.dims import ModelDimensions

DIMS = ModelDimensions(
    n_mels=N_MELS,
    n_audio_ctx=1500,
    n_audio_state=256,
    n_audio_head=4,
    n_audio_layer=4,
    n_vocab=VOCAB_SIZE,
    n_text_ctx=448,
    n_text_state=256,
    n_text_head=4,
    n_text_layer=2,
)
# Where the encoder's heads look at first, in frames of 20 ms, by layer.
LOCAL_OFFSETS = [(-3, -1, 1, 3), (-5, -2, 2, 5), (-7, -3, 3, 7), (-10, -4, 4, 10)]
LOCAL_GAIN = 1.5


def sinusoids(length: int, channels: int) -> Tensor:
    """The encoder's fixed positions."""
    scale = math.log(10000) / (channels // 2 - 1)
    inverse = torch.exp(-scale * torch.arange(channels // 2))
    angles = torch.arange(length)[:, None] * inverse[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class PlainAttention(torch.autograd.Function):
    """Attention by whole matrices: at these sizes its backward takes half the fused one's time."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v are (batch x heads, length, 64), in the precision to work in."""
        with torch.autocast("cpu", enabled=False):
            q = q * q.shape[-1] ** -0.5
            weights = torch.bmm(q, k.mT).softmax(-1)
            ctx.save_for_backward(q, k, v, weights)
            return torch.bmm(weights, v)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        """The chain rule through softmax."""
        q, k, v, weights = ctx.saved_tensors
        (gradient,) = gradients
        inner = torch.bmm(gradient, v.mT)
        inner = torch._softmax_backward_data(inner, weights, -1, weights.dtype)
        return (
            torch.bmm(inner, k) * q.shape[-1] ** -0.5,
            torch.bmm(inner.mT, q),
            torch.bmm(weights.mT, gradient),
        )


class Attention(nn.Module):
    """Multi-head attention; the key projection has no bias."""

    def __init__(self, state: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(state, state)
        self.key = nn.Linear(state, state, bias=False)
        self.value = nn.Linear(state, state)
        self.out = nn.Linear(state, state)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, source: Tensor | None = None, causal: bool = False) -> Tensor:
        """Self-attention, or attention to `source`."""
        source = x if source is None else source
        q, k, v = self._split(self.query(x)), self._split(self.key(source)), self.value(source)
        v = self._split(v)
        if torch.is_grad_enabled() and not causal:
            flat = (t.contiguous().flatten(0, 1) for t in (q, k, v))
            y = PlainAttention.apply(*flat).unflatten(0, q.shape[:2])
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out(y.transpose(1, 2).flatten(2))

    def weights(self, x: Tensor, source: Tensor) -> Tensor:
        """The attention itself (batch, heads, queries, keys), for choosing alignment heads."""
        q, k = self._split(self.query(x)), self._split(self.key(source))
        return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, state: int, heads: int, cross: bool) -> None:
        super().__init__()
        self.attn = Attention(state, heads)
        self.attn_ln = nn.LayerNorm(state)
        if cross:
            self.cross_attn = Attention(state, heads)
            self.cross_attn_ln = nn.LayerNorm(state)
        self.cross = cross
        self.mlp = nn.Sequential(
            nn.Linear(state, 4 * state), nn.GELU(), nn.Linear(4 * state, state)
        )
        self.mlp_ln = nn.LayerNorm(state)

    def forward(self, x: Tensor, source: Tensor | None = None) -> Tensor:
        """Decoder blocks have a `source` and are causal."""
        x = x + self.attn(self.attn_ln(x), causal=self.cross)
        if source is not None:
            x = x + self.cross_attn(self.cross_attn_ln(x), source)
        return x + self.mlp(self.mlp_ln(x))


class Encoder(nn.Module):
    """Two convolutions, fixed positions, blocks."""

    def __init__(self) -> None:
        super().__init__()
        state = DIMS.n_audio_state
        self.conv1 = nn.Conv1d(DIMS.n_mels, state, 3, padding=1)
        self.conv2 = nn.Conv1d(state, state, 3, stride=2, padding=1)
        self.register_buffer("positional_embedding", sinusoids(DIMS.n_audio_ctx, state))
        self.blocks = nn.ModuleList(
            Block(state, DIMS.n_audio_head, False) for _ in range(DIMS.n_audio_layer)
        )
        self.ln_post = nn.LayerNorm(state)
        self._listen_locally()

    @torch.no_grad()
    def _listen_locally(self) -> None:
        """Let every head begin by looking a few frames to one side, as a convolution would.

        Left to itself the attention stays spread over the whole window for a thousand steps, and
        each frame is heard almost alone. The queries and keys begin as the identity on the fastest
        positions, the queries turned by the head's offset: then the product of two positions
        peaks where they are that far apart.
        """
        state = self.conv2.out_channels
        pairs = state // self.blocks[0].attn.heads // 2
        scale = math.log(10000) / (state // 2 - 1)
        frequencies = torch.exp(-scale * torch.arange(pairs))
        sines, cosines = torch.arange(pairs), state // 2 + torch.arange(pairs)
        self.conv1.weight.mul_(2.0)
        self.conv2.weight.mul_(3.0)
        for rows in (sines, cosines):
            self.conv2.weight[rows] *= 0.2
        for block, offsets in zip(self.blocks, LOCAL_OFFSETS, strict=True):
            query, key = block.attn.query, block.attn.key
            for head, offset in enumerate(offsets):
                rows = 2 * pairs * head + torch.arange(pairs)
                both = torch.cat([rows, rows + pairs])
                query.weight[both] *= 0.3
                key.weight[both] *= 0.3
                turn = frequencies * offset
                query.weight[rows, sines] += LOCAL_GAIN * turn.cos()
                query.weight[rows, cosines] += LOCAL_GAIN * turn.sin()
                query.weight[rows + pairs, sines] -= LOCAL_GAIN * turn.sin()
                query.weight[rows + pairs, cosines] += LOCAL_GAIN * turn.cos()
                key.weight[rows, sines] += LOCAL_GAIN
                key.weight[rows + pairs, cosines] += LOCAL_GAIN

    def forward(self, mel: Tensor, start: int = 0) -> Tensor:
        """Features of the frames that begin at encoder position `start`."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        position = self.positional_embedding[start : start + x.shape[1]]
        x = x + position.to(x.dtype)
        for block in self.blocks:
            x = block(x)
        return self.ln_post(x)


class Decoder(nn.Module):
    """Tokens to logits, the output tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        state = DIMS.n_text_state
        self.token_embedding = nn.Embedding(DIMS.n_vocab, state)
        self.positional_embedding = nn.Parameter(torch.randn(DIMS.n_text_ctx, state) * 0.02)
        self.blocks = nn.ModuleList(
            Block(state, DIMS.n_text_head, True) for _ in range(DIMS.n_text_layer)
        )
        self.ln = nn.LayerNorm(state)
        nn.init.normal_(self.token_embedding.weight, std=0.04)

    def forward(self, tokens: Tensor, source: Tensor) -> Tensor:
        """Logits (batch, length, vocabulary)."""
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        x = x.to(source.dtype)
        for block in self.blocks:
            x = block(x, source)
        return F.linear(self.ln(x), self.token_embedding.weight)


class Whisper(nn.Module):
    """Encoder and decoder, and the CTC head that only training uses."""

    def __init__(self, n_ctc: int) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.decoder = Decoder()
        self.ctc = nn.Linear(DIMS.n_audio_state, n_ctc)

    def only_decoder(self) -> None:
        """From now on the encoder stays as it is."""
        self.encoder.requires_grad_(False)
        self.ctc.requires_grad_(False)

    def forward(self, mel: Tensor, tokens: Tensor, start: int = 0) -> tuple[Tensor, Tensor]:
        """Decoder logits, of one row of tokens or of several for each row of mel; CTC logits."""
        trained = self.encoder.conv1.weight.requires_grad
        with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
            features = self.encoder(mel, start)
        readings = features.repeat_interleave(tokens.shape[0] // mel.shape[0], dim=0)
        return self.decoder(tokens, readings), self.ctc(features)

    @torch.no_grad()
    def greedy(self, mel: Tensor, prompt: list[int], eot: int, limit: int = 60) -> list[list[int]]:
        """Plain greedy decoding (no rules, no cache): enough to watch a training run."""
        features = self.encoder(mel)
        tokens = torch.tensor([prompt] * mel.shape[0])
        done = torch.zeros(mel.shape[0], dtype=torch.bool)
        for _ in range(limit):
            best = self.decoder(tokens, features)[:, -1].argmax(-1)
            best[done] = eot
            tokens = torch.cat([tokens, best[:, None]], dim=1)
            done |= best == eot
            if done.all():
                break
        return [
            row[len(prompt) : row.index(eot) if eot in row else None] for row in tokens.tolist()
        ]
