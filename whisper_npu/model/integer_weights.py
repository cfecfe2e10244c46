"""Integer weights: the network of precision "int8", made of the weights of a float model.

The network on integers computes the same function as the float one with other weights. With
R the rotation of ``hadamard`` for the width of the network, C the subtraction of a mean and Hh the
rotation for the width of a head:

* the residual stream is x' = R C x. What writes to it (``out_proj``, ``fc2``, positions, token
  embedding, and the product ``rotation`` behind the convolutions) has R C from the left;
* a layer norm is x' / rms(x'): its gain and its bias are in the products that read it (q, k, v,
  fc1, and the logits): W' = W diag(gain) (R C)^T and b' = b + W bias. A norm's bias and b add the
  same to the scores of a query with every key, so ``k_proj`` has no bias at all;
* values are rotated within heads: W' = Hh W for ``v_proj``, W' = W Hh^T for ``out_proj``;
* ``q_proj`` is multiplied by log2(e) / sqrt(width of a head): scores are in units of log2;
* the rows of the logits' table are less their mean: a logit is less a constant of its position,
  which no probability depends on. The mean is the larger part of the rows of published models.

Matrices are int8 in [-127, 127] with a float32 scale of 14 bits for each row (output channel);
biases and positions are int32 in units of 2**-12. All is computed by float64 operations that have
one result on every machine, in the order of ``Folding.matrix``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_npu.errors import ModelError
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.model.hadamard import rotate, rotate_centred, total
from whisper_npu.model.weight_shapes import (
    ENCODER_POSITIONS,
    TOKEN_EMBEDDING,
    Shape,
    scale_name,
)
from whisper_npu.ops.arrays import F32, I8, I32
from whisper_npu.ops.fixed import F64, FRACTION, saturate
from whisper_npu.ops.linear import conv_matrix
from whisper_npu.ops.product_int8 import WEIGHT_SCALE_BITS
from whisper_npu.ops.quant import Quantized
from whisper_npu.ops.rows import LARGEST_INT8

Array = NDArray[Any]
# Gives some rows of a float weight, or (None) all of it, to any thread.
FloatRows = Callable[[str, slice | None], F32 | Quantized]
Files = Mapping[Path, os.stat_result]

# The product that turns the encoder's stream, which the convolutions write, into R C x.
ROTATION = "model.encoder.rotation.weight"
# The logits have a table of their own, as the final norm is folded into it.
LOGITS = "proj_out.weight"
DECODER_POSITIONS = "model.decoder.embed_positions.weight"

_LOG2_E = 1.4426950408889634
# Rows whose values are all smaller are zeros: their scale would be no normal float32.
_SMALLEST = 2.0**-100
_LARGEST_FLOAT = np.finfo(np.float32).max
# Values of a matrix that are read and folded at a time.
_BLOCK = 1 << 21
# Rows that are added up together for a mean: it defines the order of the sum.
_SUMMED = 1024


@dataclass(frozen=True)
class Product:
    """How the matrix and bias of a product on integers are made of the float model's.

    ``source`` names the float matrix and ``bias`` its bias, if it has one; ``has_bias`` says
    whether the product on integers has one. ``norm`` is the layer norm that is read through. Turns
    are of the columns (what is read) and rows (what is written): by R C of the stream, or by Hh
    within heads of the width ``d_head``. ``factor`` multiplies the result. ``centred`` says that
    the mean of all rows is subtracted before anything else.
    """

    source: str
    shape: Shape
    bias: str | None = None
    has_bias: bool = False
    norm: str | None = None
    reads_stream: bool = False
    reads_heads: bool = False
    writes_stream: bool = False
    writes_heads: bool = False
    d_head: int = 0
    factor: float = 1.0
    centred: bool = False


def bias_name(weight: str) -> str:
    """The name of the bias that belongs to a product with ``weight``."""
    return f"{weight.removesuffix('.weight')}.bias"


def products(dims: ModelDimensions) -> dict[str, Product]:
    """Every matrix of the network on integers, by name, the token embedding's table included."""
    return dict(_products(dims))


def _products(dims: ModelDimensions) -> Iterator[tuple[str, Product]]:
    d, encoder, decoder = dims.n_audio_state, "model.encoder", "model.decoder"
    for conv, k in ((f"{encoder}.conv1", dims.n_mels), (f"{encoder}.conv2", d)):
        yield _named(conv, Product("", (d, 3 * k)))
    yield ROTATION, Product(ROTATION, (d, d), writes_stream=True)
    for i in range(dims.n_audio_layer):
        layer = f"{encoder}.layers.{i}"
        yield from _attention(layer, "self_attn", d, d // dims.n_audio_head)
        yield from _mlp(layer, d)
    d, d_head = dims.n_text_state, dims.n_text_state // dims.n_text_head
    table = Product(TOKEN_EMBEDDING, (dims.n_vocab, d), reads_stream=True)
    yield TOKEN_EMBEDDING, table
    for i in range(dims.n_text_layer):
        layer = f"{decoder}.layers.{i}"
        yield from _attention(layer, "self_attn", d, d_head)
        read = f"{encoder}.layer_norm"
        yield from _attention(layer, "encoder_attn", d, d_head, read, dims.n_audio_state)
        yield from _mlp(layer, d)
    yield LOGITS, replace(table, norm=f"{decoder}.layer_norm", has_bias=True, centred=True)


def _attention(
    layer: str, part: str, d: int, d_head: int, keys_norm: str | None = None, k: int | None = None
) -> Iterator[tuple[str, Product]]:
    name, norm = f"{layer}.{part}", f"{layer}.{part}_layer_norm"
    query = Product("", (d, d), norm=norm, reads_stream=True, factor=_LOG2_E / math.sqrt(d_head))
    key = Product("", (d, k or d), norm=keys_norm or norm, reads_stream=True)
    value = replace(key, writes_heads=True, d_head=d_head)
    out = Product("", (d, d), reads_heads=True, writes_stream=True, d_head=d_head)
    yield _named(f"{name}.q_proj", query)
    yield _named(f"{name}.k_proj", key, bias=False)
    yield _named(f"{name}.v_proj", value)
    yield _named(f"{name}.out_proj", out)


def _mlp(layer: str, d: int) -> Iterator[tuple[str, Product]]:
    norm = f"{layer}.final_layer_norm"
    yield _named(f"{layer}.fc1", Product("", (4 * d, d), norm=norm, reads_stream=True))
    yield _named(f"{layer}.fc2", Product("", (d, 4 * d), writes_stream=True))


def _named(layer: str, product: Product, bias: bool = True) -> tuple[str, Product]:
    weight = f"{layer}.weight"
    return weight, replace(
        product, source=weight, bias=bias_name(weight) if bias else None, has_bias=bias
    )


def integer_specification(dims: ModelDimensions) -> dict[str, tuple[Shape, str]]:
    """Every integer weight of a model of these dimensions: name -> shape and dtype."""
    specification: dict[str, tuple[Shape, str]] = {}
    for name, product in products(dims).items():
        specification[name] = product.shape, "int8"
        specification[scale_name(name)] = product.shape[:1], "float32"
        if product.has_bias:
            specification[bias_name(name)] = product.shape[:1], "int32"
    specification[ENCODER_POSITIONS] = (dims.n_audio_ctx, dims.n_audio_state), "int32"
    specification[DECODER_POSITIONS] = (dims.n_text_ctx, dims.n_text_state), "int32"
    return specification


class IntegerWeights(Mapping[str, Array]):
    """The integer weights of a model by name, the largest first, made when they are asked for.

    From any thread. ``specification`` says what each is without making it. What is made is not
    kept, but for scales and biases, which come with their matrix: ask for that first. ``make``
    gives a tensor by its name; ``files`` are the files that it reads, as they were when their
    headers were read, or None.
    """

    def __init__(
        self, dims: ModelDimensions, make: Callable[[str], Array], files: Files | None = None
    ) -> None:
        self.files = files
        specification = integer_specification(dims)

        def size(name: str) -> int:
            shape, dtype = specification[name]
            return math.prod(shape) * np.dtype(dtype).itemsize

        order = sorted(specification, key=size, reverse=True)
        self.specification = {name: specification[name] for name in order}
        self._make = make

    def __getitem__(self, name: str) -> Array:
        if name not in self.specification:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.specification)

    def __len__(self) -> int:
        return len(self.specification)

    def __contains__(self, name: object) -> bool:
        return name in self.specification


def quantized_weights(
    rows: FloatRows, dims: ModelDimensions, files: Files | None = None
) -> IntegerWeights:
    """The integer weights of a float model, each value rounded to the nearest.

    Raises ModelError, when a weight is asked for, if it holds NaN, infinity or values so large that
    they are beyond float32 when they are folded; and what ``rows`` raises.
    """
    return IntegerWeights(dims, _Quantizing(Folding(rows, dims)), files)


class _Quantizing:
    """Makes integer weights. Those that are small and come with others are kept."""

    def __init__(self, folding: Folding) -> None:
        self._folding = folding
        self._kept: dict[str, Array] = {}

    def __call__(self, name: str) -> Array:
        if name in self._kept:
            return self._kept[name]
        folding = self._folding
        if name in (ENCODER_POSITIONS, DECODER_POSITIONS):
            return fixed_point(folding.positions(name))
        if name in folding.products:
            values, self._kept[scale_name(name)] = self._matrix(name)
            return values
        weight = name.removesuffix(scale_name(""))
        if weight in folding.products:
            self(weight)
        else:
            self._kept[name] = fixed_point(folding.bias(f"{name.removesuffix('.bias')}.weight"))
        return self._kept[name]

    def _matrix(self, name: str) -> tuple[I8, F32]:
        product = self._folding.products[name]
        values = np.empty(product.shape, np.int8)
        scale = np.empty(product.shape[0], np.float32)
        for part in self._folding.parts(name):
            matrix = self._folding.matrix(name, part)
            scale[part] = row_scales(matrix)
            values[part] = nearest(matrix, scale[part])
        return values, scale


class Folding:
    """The float64 weights of the network that integers compute, before they are rounded.

    Raises ModelError for weights that are not finite, or not when they are folded.
    """

    def __init__(self, rows: FloatRows, dims: ModelDimensions) -> None:
        self.products = products(dims)
        self._rows = rows
        self._means: dict[str, F64] = {}

    def parts(self, name: str) -> list[slice]:
        """Rows of a matrix that can be folded without the others: all, where rows are turned."""
        product = self.products[name]
        n, k = product.shape
        if product.writes_stream:
            return [slice(0, n)]
        unit = product.d_head if product.writes_heads else 1
        count = max(1, _BLOCK // (k * unit)) * unit
        return [slice(first, min(first + count, n)) for first in range(0, n, count)]

    def matrix(self, name: str, part: slice | None = None) -> F64:  # -> [rows, k]
        """Some rows of a matrix: one of ``parts``, or all of it."""
        product = self.products[name]
        part = part or slice(0, product.shape[0])
        if name == ROTATION:
            matrix = np.eye(product.shape[0])
        else:
            matrix = self._source(product, part)
            if product.norm is not None:
                matrix *= self._vector(f"{product.norm}.weight")
        _fold(product, matrix)
        _check(matrix, name)
        return matrix

    def bias(self, name: str) -> F64:  # -> [n]
        """The bias of the product with a matrix."""
        product = self.products[name]
        n = product.shape[0]
        bias = np.zeros(n) if product.bias is None else self._vector(product.bias)
        if product.norm is not None:
            read = self._vector(f"{product.norm}.bias")
            count = max(1, _BLOCK // len(read))
            for first in range(0, n, count):
                part = slice(first, min(first + count, n))
                bias[part] += total(self._source(product, part) * read)
        # A bias is a column: it has nothing to be turned on the side that is read.
        _fold(replace(product, reads_stream=False, reads_heads=False), bias[:, None])
        _check(bias, bias_name(name))
        return bias

    def positions(self, name: str) -> F64:  # -> [ctx, d]
        """R C times the positions of the encoder or the decoder."""
        turned = np.ascontiguousarray(self._read(name, None).astype(np.float64).T)
        rotate_centred(turned[None])
        found: F64 = turned.T
        return found

    def _source(self, product: Product, part: slice) -> F64:
        weight = self._read(product.source, part)
        matrix: F64 = (conv_matrix(weight) if weight.ndim == 3 else weight).astype(np.float64)
        if product.centred:
            matrix -= self._mean(product)
        return matrix

    def _mean(self, product: Product) -> F64:  # -> [k]
        """The mean of all rows: sums of ``_SUMMED`` rows are added one after the other."""
        if product.source not in self._means:
            n, k = product.shape
            added = np.zeros(k)
            for first in range(0, n, _SUMMED):
                rows = self._read(product.source, slice(first, min(first + _SUMMED, n)))
                added += total(rows.T.astype(np.float64))
            self._means[product.source] = added / n
        return self._means[product.source]

    def _vector(self, name: str) -> F64:
        return self._read(name, None).astype(np.float64)

    def _read(self, name: str, part: slice | None) -> F32:
        weight = self._rows(name, part)
        if isinstance(weight, Quantized):
            weight = weight.dequantize()
        _check(weight, name)
        return weight


def _check(weight: Any, name: str) -> None:
    """Raises ModelError for NaN and for what is beyond float32, which scales are."""
    if not (weight.max() <= _LARGEST_FLOAT and weight.min() >= -_LARGEST_FLOAT):
        raise ModelError(f"tensor {name} holds NaN or infinity: it cannot be quantised")


def _fold(product: Product, matrix: F64) -> None:  # [n, k]
    """Turn columns, then rows, then multiply by the factor; in place.

    Gains are in ``matrix`` already.
    """
    n, k = matrix.shape
    with np.errstate(over="ignore", invalid="ignore"):
        if product.reads_stream or product.reads_heads:
            columns = np.ascontiguousarray(matrix.T)
            if product.reads_stream:
                rotate_centred(columns[None])
            else:
                rotate(columns.reshape(-1, product.d_head, n))
            matrix[...] = columns.T
        if product.writes_heads:
            rotate(matrix.reshape(-1, product.d_head, k))
        if product.writes_stream:
            rotate_centred(matrix[None])
        if product.factor != 1:
            matrix *= product.factor


def row_scales(matrix: F64) -> F32:  # [n, k] -> [n]
    """The largest magnitude of each row over 127, rounded to ``WEIGHT_SCALE_BITS`` bits.

    Rounded to the nearest, half to even: no value is beyond 127.5 scales for it. A row of zeros, or
    of values below 2**-100, has the scale 0.
    """
    largest = np.maximum(matrix.max(axis=1), -matrix.min(axis=1))
    mantissa, exponent = np.frexp(largest / LARGEST_INT8)
    mantissa = np.rint(np.ldexp(mantissa, WEIGHT_SCALE_BITS))
    scale: F32 = np.ldexp(mantissa, exponent - WEIGHT_SCALE_BITS).astype(np.float32)
    scale[largest < _SMALLEST] = 0
    return scale


def nearest(matrix: F64, scale: F32) -> I8:  # [n, k], [n] -> [n, k]
    """rint(matrix / scale), half to even; zeros where the scale is 0."""
    divisor = np.where(scale > 0, scale, np.inf).astype(np.float64)
    return np.rint(matrix / divisor[:, None]).astype(np.int8)


def fixed_point(x: F64) -> I32:  # [...] -> [...]
    """rint(x * 2**FRACTION), half to even, saturated."""
    return saturate(np.rint(x * 2.0**FRACTION))
