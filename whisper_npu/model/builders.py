"""Builders: model dimensions in, static graphs out.

Six phases make a window: mel, encoder, cross-KV (once per window), decoder prefill (the prompt),
decoder step (one token) and the choice of the token after it. Activations are [batch, time, width]
throughout.

The graphs of precision ``float32`` are made here, those of ``int8`` in ``integer_graphs``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from whisper_npu.model import integer_graphs
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.model.graph import Graph, Role
from whisper_npu.model.graph_builder import CacheRoom, GraphBuilder
from whisper_npu.model.precision import Precision
from whisper_npu.model.weight_shapes import (
    TOKEN_EMBEDDING,
    Shape,
    matrix_shape,
    weight_specification,
)
from whisper_npu.ops import mel, mel_int

MEL_FILTERS = "mel_filters"

# Graphs are frozen: those made last are kept, as loading a model and running it ask for the same.
_kept = lru_cache(maxsize=16)


def _float32(shapes: Mapping[str, Shape]) -> dict[str, tuple[Shape, str]]:
    """What graphs have of weights of these shapes."""
    return {name: (matrix_shape(shape), "float32") for name, shape in shapes.items()}


class _Builder(GraphBuilder):
    """Adds what a float model is made of."""

    def __init__(self, dims: ModelDimensions) -> None:
        super().__init__(_float32(weight_specification(dims)), "float32")

    def product(
        self, x: str, weight: str, output: str, bias: str | None = None, role: Role = "activation"
    ) -> str:
        rest = [] if bias is None else [self.weight(bias)]
        return self.op("linear", [x, self.weight(weight), *rest], output, role)

    def linear(self, x: str, layer: str, output: str, bias: bool = True) -> str:
        return self.product(x, f"{layer}.weight", output, f"{layer}.bias" if bias else None)

    def conv(self, x: str, layer: str, output: str, stride: int) -> str:
        weight, bias = f"{layer}.weight", f"{layer}.bias"
        return self.op("conv1d", [x, self.weight(weight), self.weight(bias)], output, stride=stride)

    def embed(self, tokens: str, positions: str, position: str, output: str) -> str:
        inputs = [tokens, self.weight(TOKEN_EMBEDDING), self.weight(positions), position]
        return self.op("embed", inputs, output)

    def norm(self, x: str, layer: str, output: str, role: Role = "activation") -> str:
        weights = [self.weight(f"{layer}.weight"), self.weight(f"{layer}.bias")]
        return self.op("layer_norm", [x, *weights], output, role)

    def mlp(self, x: str, layer: str, prefix: str) -> str:
        h = self.norm(x, f"{layer}.final_layer_norm", f"{prefix}.mlp_ln")
        h = self.linear(h, f"{layer}.fc1", f"{prefix}.fc1")
        h = self.op("gelu", [h], f"{prefix}.gelu")
        h = self.linear(h, f"{layer}.fc2", f"{prefix}.fc2")
        return self.op("add", [x, h], f"{prefix}.residual")

    def cross_state(self, dims: ModelDimensions, layer: int, part: str, batch: int) -> str:
        """The keys or values of a decoder layer of so many windows."""
        d_head = dims.n_text_state // dims.n_text_head
        shape = (batch, dims.n_text_head, dims.n_audio_ctx, d_head)
        return self.declare(f"cross.{layer}.{part}", shape, "state")


@_kept
def build_mel(n_mels: int, n_frames: int, precision: Precision = "float32") -> Graph:
    """Samples [160 (n_frames - 1) + 400] -> log_mel [n_mels, n_frames]: log10, not clamped.

    In ``int8`` that is int16 with ``mel_int.LOG10_FRACTION`` bits.
    """
    n_fft, hop = mel.N_FFT, mel.HOP_LENGTH
    b = GraphBuilder(_float32({MEL_FILTERS: (n_mels, n_fft // 2 + 1)}), "float32")
    samples = b.declare("samples", (hop * (n_frames - 1) + n_fft,), "input")
    if precision == "int8":
        shapes = mel_int.table_shapes(n_mels)
        tables = [b.declare(name, shapes[name], "weight", "int32") for name in shapes]
        b.declare("log_mel", (n_mels, n_frames), "output", "int16")
        b.op("log_mel_int16", [samples, *tables], "log_mel", n_fft=n_fft, hop=hop)
        return b.build("mel")
    power = b.op("stft_power", [samples], "power", n_fft=n_fft, hop=hop)
    b.op("mel_log10", [power, b.weight(MEL_FILTERS)], "log_mel", "output")
    return b.build("mel")


@_kept
def build_encoder(dims: ModelDimensions, batch: int = 1, precision: Precision = "float32") -> Graph:
    """features [batch, n_mels, 2 n_audio_ctx] -> states [batch, n_audio_ctx, n_audio_state]."""
    if precision == "int8":
        return integer_graphs.build_encoder(dims, batch)
    b = _Builder(dims)
    root = "model.encoder"
    x = b.declare("features", (batch, dims.n_mels, dims.n_frames), "input")
    x = b.op("transpose", [x], "frames")
    for conv, stride in (("conv1", 1), ("conv2", 2)):
        x = b.conv(x, f"{root}.{conv}", conv, stride)
        x = b.op("gelu", [x], f"{conv}.gelu")
    x = b.op("add", [x, b.weight(f"{root}.embed_positions.weight")], "embedded")
    for i in range(dims.n_audio_layer):
        layer, prefix = f"{root}.layers.{i}", f"encoder.{i}"
        h = b.norm(x, f"{layer}.self_attn_layer_norm", f"{prefix}.attn_ln")
        qkv = [
            b.linear(h, f"{layer}.self_attn.q_proj", f"{prefix}.q"),
            b.linear(h, f"{layer}.self_attn.k_proj", f"{prefix}.k", bias=False),
            b.linear(h, f"{layer}.self_attn.v_proj", f"{prefix}.v"),
        ]
        h = b.op("attention", qkv, f"{prefix}.attn", n_head=dims.n_audio_head)
        h = b.linear(h, f"{layer}.self_attn.out_proj", f"{prefix}.attn_out")
        x = b.op("add", [x, h], f"{prefix}.attn_residual")
        x = b.mlp(x, layer, prefix)
    b.norm(x, f"{root}.layer_norm", "states", "output")
    return b.build("encoder")


@_kept
def build_cross_kv(
    dims: ModelDimensions, batch: int = 1, precision: Precision = "float32"
) -> Graph:
    """states -> per decoder layer the keys and values [batch, n_text_head, n_audio_ctx, d_head]."""
    if precision == "int8":
        return integer_graphs.build_cross_kv(dims, batch)
    b = _Builder(dims)
    states = b.declare("states", (batch, dims.n_audio_ctx, dims.n_audio_state), "input")
    for i in range(dims.n_text_layer):
        layer = f"model.decoder.layers.{i}.encoder_attn"
        for part, bias in (("k", False), ("v", True)):
            h = b.linear(states, f"{layer}.{part}_proj", f"cross.{i}.{part}_proj", bias)
            name = b.cross_state(dims, i, part, batch)
            b.op("split_heads", [h], name, n_head=dims.n_text_head)
    return b.build("cross_kv")


@_kept
def build_prefill(
    dims: ModelDimensions,
    n_tokens: int,
    batch: int = 1,
    n_rows: int = 1,
    precision: Precision = "float32",
    room: CacheRoom | None = None,
) -> Graph:
    """tokens [batch, n_tokens] into the caches -> logits [batch, n_rows, n_vocab] of chosen rows.

    ``room`` is that of the caches; if not given, they are full.
    """
    return _build_decoder("prefill", dims, precision, batch, 1, n_tokens, n_rows, room)


@_kept
def build_step(
    dims: ModelDimensions,
    batch: int = 1,
    group: int = 1,
    precision: Precision = "float32",
    room: CacheRoom | None = None,
) -> Graph:
    """One token for each of batch x group sequences -> logits [batch * group, 1, n_vocab]."""
    return _build_decoder("step", dims, precision, batch, group, 1, None, room)


def build_align(
    dims: ModelDimensions,
    n_tokens: int,
    heads: Sequence[tuple[int, int]],
    precision: Precision = "float32",
    room: CacheRoom | None = None,
) -> Graph:
    """A prefill of one sequence that gives all logits, [1, n_tokens, n_vocab], and the scores of
    ``heads`` (pairs of layer and head): per layer ``alignment.{layer}`` [heads, n_tokens, ctx]."""
    return _build_decoder("align", dims, precision, 1, 1, n_tokens, None, room, heads)


def _build_decoder(
    name: str,
    dims: ModelDimensions,
    precision: Precision,
    batch: int,
    group: int,
    n_tokens: int,
    n_rows: int | None,
    room: CacheRoom | None,
    heads: Sequence[tuple[int, int]] = (),
) -> Graph:
    room = room or CacheRoom(batch, group)
    if precision == "int8":
        return integer_graphs.build_decoder(name, dims, batch, group, n_tokens, n_rows, room, heads)
    b = _Builder(dims)
    root, sequences = "model.decoder", batch * group
    d_head = dims.n_text_state // dims.n_text_head
    tokens = b.declare("tokens", (sequences, n_tokens), "input", "int64")
    position, slot = b.windows(batch)
    x = b.embed(tokens, f"{root}.embed_positions.weight", position, "embedded")
    for i in range(dims.n_text_layer):
        layer, prefix = f"{root}.layers.{i}", f"decoder.{i}"
        h = b.norm(x, f"{layer}.self_attn_layer_norm", f"{prefix}.attn_ln")
        q = b.linear(h, f"{layer}.self_attn.q_proj", f"{prefix}.q")
        caches = []
        for part, bias in (("k", False), ("v", True)):
            new = b.linear(h, f"{layer}.self_attn.{part}_proj", f"{prefix}.{part}", bias)
            cache = b.declare(
                f"self.{i}.{part}",
                (*room, dims.n_text_head, dims.n_text_ctx, d_head),
                "state",
            )
            caches.append(b.op("store_cache", [new, cache, position, slot], cache))
        h = b.op("cached_attention", [q, *caches, position, slot], f"{prefix}.attn")
        h = b.linear(h, f"{layer}.self_attn.out_proj", f"{prefix}.attn_out")
        x = b.op("add", [x, h], f"{prefix}.attn_residual")

        h = b.norm(x, f"{layer}.encoder_attn_layer_norm", f"{prefix}.cross_ln")
        q = b.linear(h, f"{layer}.encoder_attn.q_proj", f"{prefix}.cross_q")
        k, v = (b.cross_state(dims, i, part, room.slots) for part in "kv")
        kept = tuple(head for of, head in heads if of == i)
        extra = [f"alignment.{i}"] if kept else []
        h = b.op("cross_attention", [q, k, v, slot], f"{prefix}.cross", extra=extra, heads=kept)
        h = b.linear(h, f"{layer}.encoder_attn.out_proj", f"{prefix}.cross_out")
        x = b.op("add", [x, h], f"{prefix}.cross_residual")
        x = b.mlp(x, layer, prefix)
    if n_rows is not None:
        rows = b.declare("rows", (n_rows,), "input", "int64")
        x = b.op("select_rows", [x, rows], "selected")
    x = b.norm(x, f"{root}.layer_norm", "final_ln")
    b.product(x, TOKEN_EMBEDDING, "logits", role="output")
    return b.build(name)


@_kept
def build_choice(n_vocab: int, sequences: int, k: int, precision: Precision = "float32") -> Graph:
    """logits [sequences, n_vocab], where the rules have changed them -> the ``k`` likeliest tokens
    of each sequence and their logprobs, both [sequences, k]."""
    b = GraphBuilder({}, "float32")
    logits = b.declare("logits", (sequences, n_vocab), "state")
    tokens = b.declare("tokens", (sequences, k), "output", "int64")
    kind = "top_logprobs_int32" if precision == "int8" else "top_logprobs"
    b.op(kind, [logits], tokens, extra=["logprobs"], k=k)
    return b.build("choice")


# Those that run once for each window, and those that run for each token.
WINDOW_PHASES = ("mel", "encoder", "cross_kv", "prefill")
TOKEN_PHASES = ("step", "choice")
PHASES = (*WINDOW_PHASES, *TOKEN_PHASES)


def build_phase(
    phase: str, dims: ModelDimensions, prompt: int = 4, precision: Precision = "float32"
) -> Graph:
    """The graph of one of ``PHASES`` for one 30-second window and one sequence."""
    if phase == "mel":
        return build_mel(dims.n_mels, dims.n_frames, precision)
    if phase == "encoder":
        return build_encoder(dims, precision=precision)
    if phase == "cross_kv":
        return build_cross_kv(dims, precision=precision)
    if phase == "prefill":
        return build_prefill(dims, prompt, precision=precision)
    if phase == "step":
        return build_step(dims, precision=precision)
    if phase == "choice":
        return build_choice(dims.n_vocab, 1, 1, precision)
    raise ValueError(f"unknown phase {phase!r}; one of {', '.join(PHASES)}")
