"""Reading whisper.cpp's ggml files.

Little-endian: magic, eleven hyperparameters, the mel filters, the text tokens, and tensors up to
the end of the file. Tensors have openai-whisper's names and their dimensions in reverse.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from whisper_npu.convert.configs import load_tokenizer, made_config, made_generation
from whisper_npu.convert.openai_names import names_from_openai
from whisper_npu.convert.tensors import (
    LARGEST_TENSOR_COUNT,
    Rows,
    Source,
    StoredTensor,
    check_name,
    checked_weights,
)
from whisper_npu.convert.tokenizer_files import read_tokenizer
from whisper_npu.errors import ModelError
from whisper_npu.files.span import Reader, Span
from whisper_npu.files.whole import open_regular
from whisper_npu.model.dims import ModelDimensions, dimensions_from_config
from whisper_npu.model.stored import FLOAT16, FLOAT32, StoredType
from whisper_npu.model.weight_shapes import check_layers
from whisper_npu.ops.arrays import F32, U8
from whisper_npu.text.tokenizer_json import special_tokens, tokenizer_json

_BLOCK = np.dtype([("scale", "<f2"), ("values", "i1", 32)])


def _from_q8_0(raw: U8) -> F32:
    blocks = raw.view(_BLOCK)
    # The file may hold any scale; what comes out is looked at where it is quantised.
    with np.errstate(all="ignore"):
        values: F32 = np.multiply(blocks["values"], blocks["scale"][:, None], dtype=np.float32)
    return values


Q8_0 = StoredType("q8_0", 32, _BLOCK.itemsize, _from_q8_0)

_TYPES = {0: FLOAT32, 1: FLOAT16, 8: Q8_0}
# By ggml's numbers of tensor types.
_REFUSED = {2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 9: "q8_1", 10: "q2_k", 11: "q3_k"}
_REFUSED |= {12: "q4_k", 13: "q5_k", 14: "q6_k", 15: "q8_k", 30: "bf16"}
# Stored as [n, 1], for the addition to a convolution's output.
_COLUMNS = ("encoder.conv1.bias", "encoder.conv2.bias")
_N_FFT = 201


def read_ggml(path: Path, tokenizer: Path | None) -> Source:
    """A ggml file with float32, float16 or q8_0 tensors. Raises ModelError."""
    with open_regular(path, ModelError) as file:
        reader = Reader(Span.of_file(file, ModelError))
        reader.skip(4, "the magic number")
        dims = _dimensions(reader, path)
        _skip_filters(reader, dims, path)
        tokens = _tokens(reader, dims, path)
        found = _tensors(reader, path)
    check_layers(dims, len(found), str(path))
    names = names_from_openai(dims)
    tensors = {names.get(name, name): tensor for name, tensor in found.items()}
    weights, dtype = checked_weights(tensors, dims, path)

    if tokenizer is None:
        specials = special_tokens(dims.n_vocab - len(tokens), path)
        text, files = tokenizer_json(tokens, specials, path), [path]
    else:
        text, vocabulary = read_tokenizer(tokenizer, dims.n_vocab)
        files = [path, vocabulary]
    loaded = load_tokenizer(text, dims.n_vocab, {}, files[-1])
    config, generation = made_config(dims, loaded), made_generation(dims, loaded)
    return Source("ggml", path, tuple(files), dtype, dims, weights, config, generation, text)


def _dimensions(reader: Reader, path: Path) -> ModelDimensions:
    n_vocab, a_ctx, a_state, a_head, a_layer, t_ctx, t_state, t_head, t_layer, n_mels, _ = (
        reader.unpack("11i", "the dimensions")
    )
    dims = ModelDimensions(
        n_mels, a_ctx, a_state, a_head, a_layer, n_vocab, t_ctx, t_state, t_head, t_layer
    )
    if a_state != t_state:
        raise ModelError(f"{path}: n_audio_state {a_state} and n_text_state {t_state} differ")
    return dimensions_from_config(made_config(dims, None), str(path))


def _skip_filters(reader: Reader, dims: ModelDimensions, path: Path) -> None:
    n_mels, n_fft = reader.unpack("2i", "the size of the mel filters")
    if (n_mels, n_fft) != (dims.n_mels, _N_FFT):
        raise ModelError(
            f"{path}: has mel filters [{n_mels}, {n_fft}], not [{dims.n_mels}, {_N_FFT}]"
        )
    reader.skip(4 * n_mels * n_fft, "the mel filters")


def _tokens(reader: Reader, dims: ModelDimensions, path: Path) -> list[bytes]:
    """The text tokens by rank."""
    (count,) = reader.unpack("i", "the number of tokens")
    if not 0 < count <= dims.n_vocab:
        raise ModelError(f"{path}: has {count} tokens; the model has {dims.n_vocab}")
    tokens = []
    for _ in range(count):
        (length,) = reader.unpack("I", "the length of a token")
        tokens.append(reader.take(length, "a token"))
    # Some converters write the first special token along.
    return tokens[:-1] if tokens[-1] == b"<|endoftext|>" else tokens


def _tensors(reader: Reader, path: Path) -> dict[str, StoredTensor]:
    """All tensors, by the names in the file."""
    found: dict[str, StoredTensor] = {}
    while reader.left:
        n_dims, length, type_number = reader.unpack("3i", "a tensor's header")
        if not 1 <= n_dims <= 4 or len(found) == LARGEST_TENSOR_COUNT:
            raise ModelError(f"{path}: no tensor begins where one is due; the file is damaged")
        shape = reader.unpack(f"{n_dims}i", "a tensor's shape")[::-1]
        raw = reader.take(length, "a tensor's name")
        name = check_name(raw.decode("latin-1"), path)
        stored = _TYPES.get(type_number)
        if stored is None:
            what = _REFUSED.get(type_number, f"of type {type_number}")
            raise ModelError(f"{path}: tensor {name} is {what}; f32, f16 and q8_0 are read")
        if name in found:
            raise ModelError(f"{path}: tensor {name} is there twice")
        if min(shape) < 1 or shape[-1] % stored.group:
            raise ModelError(f"{path}: tensor {name} cannot be {stored.name} {list(shape)}")
        start = reader.skip(stored.size(math.prod(shape)), f"tensor {name}")
        if name in _COLUMNS and shape[1:] == (1,):
            shape = shape[:1]
        found[name] = Rows(path, start, shape, stored)
    return found
