"""The graphs of precision int8: integers from the features to the logits.

They compute the network whose weights ``model.integer_weights`` describes: the residual stream in
rotated coordinates, norms without gain and bias. Activations are int32 with FRACTION fraction bits
(``ops.fixed``); the input of a product is made int8 or int16, row by row.

Inputs of products have 16 bits up to the encoder's first layer, where most of the error of 8 bits
is made, and 8 in its other layers and in the keys and values that the decoder has of the audio:
docs/numerics.md says what that costs on real speech, and what 8 bits would cost elsewhere. In the
decoder they have 16 bits, which take no time there: a step reads the weights once, whatever the
activations are.
"""

from __future__ import annotations

from collections.abc import Sequence

from whisper_npu.model.dims import ModelDimensions
from whisper_npu.model.graph import Graph, Role
from whisper_npu.model.graph_builder import CacheRoom, GraphBuilder
from whisper_npu.model.integer_weights import (
    DECODER_POSITIONS,
    LOGITS,
    ROTATION,
    bias_name,
    integer_specification,
)
from whisper_npu.model.weight_shapes import ENCODER_POSITIONS, TOKEN_EMBEDDING, scale_name
from whisper_npu.ops.fixed import ATTENTION_FRACTION, FEATURE_FRACTION, FRACTION


class _Builder(GraphBuilder):
    """Adds what the integer network is made of."""

    def __init__(self, dims: ModelDimensions) -> None:
        super().__init__(integer_specification(dims), "int32")

    def quantized_weight(self, name: str) -> list[str]:
        """An int8 weight and its scales."""
        return [self.weight(name), self.weight(scale_name(name))]

    def quantized(self, x: str, bits: int = 16, fraction: int = FRACTION) -> list[str]:
        """Rows of an activation as integers of so many bits, and their scales."""
        rows, scale = self.rows(x, f"{x}.rows", bits)
        self.op("quantize_int32", [x], rows, extra=[scale], bits=bits, fraction=fraction)
        return [rows, scale]

    def norm(self, x: str, output: str, bits: int = 16) -> list[str]:
        """Rows of an activation, normalised, as integers of so many bits, and their scales."""
        rows, scale = self.rows(x, output, bits)
        self.op("rms_norm", [x], rows, extra=[scale], bits=bits)
        return [rows, scale]

    def rows(self, x: str, output: str, bits: int) -> tuple[str, str]:
        """Declare integers of so many bits in the shape of ``x``, and a scale for each row."""
        shape = self.tensors[x].shape
        self.declare(output, shape, "activation", f"int{bits}")
        return output, self.declare(scale_name(output), shape[:-1], "activation", "float32")

    def product(self, rows: Sequence[str], weight: str, output: str) -> str:
        """The product with a weight, and its bias where there is one."""
        bias = bias_name(weight)
        rest = [self.weight(bias)] if bias in self.weights else []
        return self.op("product_int8", [*rows, *self.quantized_weight(weight), *rest], output)

    def linear(self, rows: Sequence[str], layer: str, output: str) -> str:
        return self.product(rows, f"{layer}.weight", output)

    def conv(self, x: str, layer: str, output: str, stride: int, fraction: int) -> str:
        columns = self.op("im2col", [x], f"{output}.columns", stride=stride)
        return self.linear(self.quantized(columns, fraction=fraction), layer, output)

    def attended(
        self, x: str, attention: str, layer: str, output: str, name: str, bits: int = 16
    ) -> str:
        """What attention gave through the layer that writes it to the residual stream ``x``."""
        h = self.linear(self.quantized(attention, bits, ATTENTION_FRACTION), layer, output)
        return self.sum(x, h, name)

    def sum(self, x: str, y: str, name: str, role: Role = "activation") -> str:
        """A sum that is the residual stream from there on, and the event that a value was cut."""
        cut = self.declare(f"{name}.cut", (), "event")
        return self.op("add_int32", [x, y], name, role, extra=[cut])

    def mlp(
        self, x: str, layer: str, prefix: str, name: str, role: Role = "activation", bits: int = 16
    ) -> str:
        h = self.linear(self.norm(x, f"{prefix}.mlp_ln", bits), f"{layer}.fc1", f"{prefix}.fc1")
        h = self.op("gelu_int32", [h], f"{prefix}.gelu")
        h = self.linear(self.quantized(h, bits), f"{layer}.fc2", f"{prefix}.fc2")
        return self.sum(x, h, name, role)

    def cross_state(self, dims: ModelDimensions, layer: int, part: str, batch: int) -> list[str]:
        """The keys or values of a decoder layer of so many windows, and their scales."""
        d_head = dims.n_text_state // dims.n_text_head
        name, heads = f"cross.{layer}.{part}", (batch, dims.n_text_head)
        values = self.declare(name, (*heads, dims.n_audio_ctx, d_head), "state", "int8")
        return [values, self.declare(scale_name(name), (*heads, d_head), "state", "float32")]


def build_encoder(dims: ModelDimensions, batch: int) -> Graph:
    """features [batch, n_mels, 2 n_audio_ctx] -> states [batch, n_audio_ctx, n_audio_state].

    Both are int32: features have FEATURE_FRACTION, the states are the residual stream before the
    encoder's last norm.
    """
    b = _Builder(dims)
    root = "model.encoder"
    x = b.declare("features", (batch, dims.n_mels, dims.n_frames), "input")
    x = b.op("transpose", [x], "frames")
    for conv, stride, fraction in (("conv1", 1, FEATURE_FRACTION), ("conv2", 2, FRACTION)):
        x = b.conv(x, f"{root}.{conv}", conv, stride, fraction)
        x = b.op("gelu_int32", [x], f"{conv}.gelu")
    x = b.product(b.quantized(x), ROTATION, "rotated")
    x = b.sum(x, b.weight(ENCODER_POSITIONS), "embedded")
    for i in range(dims.n_audio_layer):
        layer, prefix = f"{root}.layers.{i}", f"encoder.{i}"
        bits = 16 if i == 0 else 8
        h = b.norm(x, f"{prefix}.attn_ln", bits)
        qkv = [b.linear(h, f"{layer}.self_attn.{p}_proj", f"{prefix}.{p}") for p in "qkv"]
        attention = "attention_int32" if bits == 16 else "attention_int8"
        y = b.op(attention, qkv, f"{prefix}.attn", n_head=dims.n_audio_head)
        out = f"{layer}.self_attn.out_proj"
        x = b.attended(x, y, out, f"{prefix}.attn_out", f"{prefix}.attn_residual", bits)
        if i < dims.n_audio_layer - 1:
            x = b.mlp(x, layer, prefix, f"{prefix}.residual", bits=bits)
        else:
            b.mlp(x, layer, prefix, "states", "output", bits)
    return b.build("encoder")


def build_cross_kv(dims: ModelDimensions, batch: int) -> Graph:
    """states -> per decoder layer the keys and values [batch, n_text_head, n_audio_ctx, d_head] as
    int8, and the scales of their columns, [batch, n_text_head, d_head]."""
    b = _Builder(dims)
    states = b.declare("states", (batch, dims.n_audio_ctx, dims.n_audio_state), "input")
    h = b.norm(states, "states_ln", bits=8)
    for i in range(dims.n_text_layer):
        layer = f"model.decoder.layers.{i}.encoder_attn"
        for part in "kv":
            y = b.linear(h, f"{layer}.{part}_proj", f"cross.{i}.{part}_proj")
            name, scale = b.cross_state(dims, i, part, batch)
            b.op("quantize_columns", [y], name, extra=[scale], n_head=dims.n_text_head)
    return b.build("cross_kv")


def build_decoder(
    name: str,
    dims: ModelDimensions,
    batch: int,
    group: int,
    n_tokens: int,
    n_rows: int | None,
    room: CacheRoom,
    heads: Sequence[tuple[int, int]] = (),
) -> Graph:
    """``n_tokens`` tokens for each of batch x group sequences into the caches -> logits.

    Logits are float32 that holds multiples of 2**-FRACTION: of all tokens, or of ``n_rows`` chosen
    ones. The scores of ``heads`` (pairs of layer and head) are outputs too.
    """
    b = _Builder(dims)
    root, sequences = "model.decoder", batch * group
    cache = (*room, dims.n_text_head, dims.n_text_ctx, dims.n_text_state // dims.n_text_head)
    tokens = b.declare("tokens", (sequences, n_tokens), "input", "int64")
    position, slot = b.windows(batch)
    table = b.quantized_weight(TOKEN_EMBEDDING)
    x = b.op("embed_int32", [tokens, *table, b.weight(DECODER_POSITIONS), position], "embedded")
    for i in range(dims.n_text_layer):
        layer, prefix = f"{root}.layers.{i}", f"decoder.{i}"
        h = b.norm(x, f"{prefix}.attn_ln")
        q, *new = (b.linear(h, f"{layer}.self_attn.{p}_proj", f"{prefix}.{p}") for p in "qkv")
        caches = [b.declare(f"self.{i}.{part}", cache, "state", "int16") for part in "kv"]
        for each, state in zip(new, caches, strict=True):
            b.op("store_int16", [each, state, position, slot], state)
        y = b.op("cached_attention_int16", [q, *caches, position, slot], f"{prefix}.attn")
        out = f"{layer}.self_attn.out_proj"
        x = b.attended(x, y, out, f"{prefix}.attn_out", f"{prefix}.attn_residual")

        h = b.norm(x, f"{prefix}.cross_ln")
        q = b.linear(h, f"{layer}.encoder_attn.q_proj", f"{prefix}.cross_q")
        (k, k_scale), (v, v_scale) = (b.cross_state(dims, i, part, room.slots) for part in "kv")
        kept = tuple(head for of, head in heads if of == i)
        extra = []
        if kept:
            shape = (len(kept), n_tokens, dims.n_audio_ctx)
            extra = [b.declare(f"alignment.{i}", shape, "output", "float32")]
        inputs = [q, k, v, k_scale, v_scale, slot]
        y = b.op("cross_attention_int32", inputs, f"{prefix}.cross", extra=extra, heads=kept)
        out = f"{layer}.encoder_attn.out_proj"
        x = b.attended(x, y, out, f"{prefix}.cross_out", f"{prefix}.cross_residual")
        x = b.mlp(x, layer, prefix, f"{prefix}.residual")
    if n_rows is not None:
        rows = b.declare("rows", (n_rows,), "input", "int64")
        x = b.op("select_rows", [x, rows], "selected")
    x = b.product(b.norm(x, "final_ln"), LOGITS, "fixed_logits")
    b.op("logits_float", [x], "logits", "output", "float32")
    return b.build(name)
