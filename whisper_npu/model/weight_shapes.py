"""The weight specification: every tensor of a Whisper checkpoint with its shape.

Names are those of Hugging Face's Whisper checkpoints, which is the format loaded directly.
"""

from __future__ import annotations

from collections.abc import Iterator

from whisper_npu.errors import ModelError
from whisper_npu.model.dims import ModelDimensions

Shape = tuple[int, ...]

# What the matrices of a converted model may be stored as.
WEIGHT_DTYPES = ("int8", "float16", "float32")
TOKEN_EMBEDDING = "model.decoder.embed_tokens.weight"
ENCODER_POSITIONS = "model.encoder.embed_positions.weight"


def _norm(name: str, d: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (d,)
    yield f"{name}.bias", (d,)


def _linear(name: str, n: int, k: int, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (n, k)
    if bias:
        yield f"{name}.bias", (n,)


def _attention(name: str, d: int) -> Iterator[tuple[str, Shape]]:
    yield from _linear(f"{name}.q_proj", d, d)
    yield from _linear(f"{name}.k_proj", d, d, bias=False)
    yield from _linear(f"{name}.v_proj", d, d)
    yield from _linear(f"{name}.out_proj", d, d)


def _mlp(name: str, d: int) -> Iterator[tuple[str, Shape]]:
    yield from _linear(f"{name}.fc1", 4 * d, d)
    yield from _linear(f"{name}.fc2", d, 4 * d)
    yield from _norm(f"{name}.final_layer_norm", d)


def _tensors(dims: ModelDimensions) -> Iterator[tuple[str, Shape]]:
    d = dims.n_audio_state
    yield "model.encoder.conv1.weight", (d, dims.n_mels, 3)
    yield "model.encoder.conv1.bias", (d,)
    yield "model.encoder.conv2.weight", (d, d, 3)
    yield "model.encoder.conv2.bias", (d,)
    yield ENCODER_POSITIONS, (dims.n_audio_ctx, d)
    for i in range(dims.n_audio_layer):
        layer = f"model.encoder.layers.{i}"
        yield from _attention(f"{layer}.self_attn", d)
        yield from _norm(f"{layer}.self_attn_layer_norm", d)
        yield from _mlp(layer, d)
    yield from _norm("model.encoder.layer_norm", d)

    d = dims.n_text_state
    yield TOKEN_EMBEDDING, (dims.n_vocab, d)
    yield "model.decoder.embed_positions.weight", (dims.n_text_ctx, d)
    for i in range(dims.n_text_layer):
        layer = f"model.decoder.layers.{i}"
        yield from _attention(f"{layer}.self_attn", d)
        yield from _norm(f"{layer}.self_attn_layer_norm", d)
        yield from _attention(f"{layer}.encoder_attn", d)
        yield from _norm(f"{layer}.encoder_attn_layer_norm", d)
        yield from _mlp(layer, d)
    yield from _norm("model.decoder.layer_norm", d)


def weight_specification(dims: ModelDimensions) -> dict[str, Shape]:
    """Every weight of a model of these dimensions: Hugging Face name -> shape."""
    return dict(_tensors(dims))


def scale_name(weight: str) -> str:
    """Where the scales of an int8 weight are stored: one float32 for each of its rows."""
    return f"{weight}_scale"


def matrix_shape(shape: Shape) -> Shape:
    """The shape of a weight in a graph: of a convolution's, [n, c, 3], that of the matrix that
    multiplies its columns, [n, 3 c]."""
    return (shape[0], 3 * shape[1]) if len(shape) == 3 else shape


def is_quantizable(name: str, shape: Shape) -> bool:
    """Whether this weight is int8 in a quantised model: matrices, convolutions, the embedding."""
    return len(shape) > 1 and not name.endswith("embed_positions.weight")


def check_layers(dims: ModelDimensions, n_tensors: int, source: str) -> None:
    """Compare the number of layers with the number of tensors.

    A file can claim a million layers, whose specification would fill the memory. Raises ModelError.
    """
    layers = dims.n_audio_layer + dims.n_text_layer
    if layers > n_tensors:
        raise ModelError(f"{source}: has {n_tensors} tensors, too few for {layers} layers")
