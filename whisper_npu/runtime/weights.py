"""Weights as the NumPy ops of a precision want them."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_npu.backends.numpy.specification import Array
from whisper_npu.errors import ModelError
from whisper_npu.model.builders import Precision
from whisper_npu.model.checkpoint import StoredWeights
from whisper_npu.model.weights import TOKEN_EMBEDDING, Shape, is_quantizable, scale_name
from whisper_npu.ops.arrays import F32
from whisper_npu.ops.linear import conv_matrix
from whisper_npu.ops.quant import Quantized, quantize_weight
from whisper_npu.runtime.workers import spans, workers

Weight = F32 | Quantized
Rows = Callable[[slice | None], Weight]

_MATRICES = (".fc1.weight", TOKEN_EMBEDDING)
# That read a file together; more do not make memory faster.
_THREADS = 4
# Rows that are turned into columns at a time.
_ROWS = 256
# Values of a weight that are quantised at a time.
_QUANTIZED = 1 << 22


def prepare_weights(
    weights: Mapping[str, Weight], precision: Precision, as_integers: bool = False
) -> dict[str, Array]:
    """Weights by the names that graphs of this precision use; convolutions become matrices.

    ``float32`` dequantises int8 weights, once. ``int8`` quantises the weights of a floating-point
    model, and holds integers as float32, because BLAS multiplies nothing smaller, unless
    ``as_integers``: then NumPy widens them again whenever it multiplies. Wide matrices of the
    decoder lie column by column (see ``by_columns``). Each weight is asked for once, by one of
    several threads, and not held any longer than it is converted; of a ``StoredWeights``, large
    ones are read in parts. Raises what asking for it raises, and ModelError for NaN or infinity in
    a weight that is to be quantised.
    """
    prepared: dict[str, Array] = {}

    def prepare(name: str) -> None:
        shape, rows, integers = _source(weights, name)
        if precision == "int8" and is_quantizable(name, shape):
            as_stored = integers and as_integers and len(shape) == 2
            quantized = _quantized(name, shape, rows, as_stored)
            prepared[scale_name(name)] = quantized.scale
            array: Array = quantized.values
            if is_wide(name, shape) and not as_integers:
                array = by_columns(shape, quantized.values.__getitem__)
            elif not as_integers:
                array = array.astype(np.float32)
        elif is_wide(name, shape):
            array = by_columns(shape, lambda part: _floats(rows(part)))
        else:
            array = _floats(rows(None))
        prepared[name] = conv_matrix(array) if array.ndim == 3 else array

    _in_threads(prepare, weights)
    return prepared


def _in_threads(task: Callable[[str], None], names: Iterable[str]) -> None:
    """Call ``task`` with every name, as threads become free. Raises the first error of any.

    Reading a file that is in memory takes less time than making room for it, page by page, and
    several threads make it faster than one.
    """
    waiting = iter(list(names))
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for name in waiting:
                if errors:
                    break
                task(name)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(min(_THREADS, os.cpu_count() or 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _source(weights: Mapping[str, Weight], name: str) -> tuple[Shape, Rows, bool]:
    """The shape of a weight, what gives some rows of it, or (None) all of it to be kept, and
    whether they are integers."""
    if isinstance(weights, StoredWeights):
        return weights.shapes[name], partial(weights.rows, name), name in weights.integers
    weight = weights[name]
    integers = isinstance(weight, Quantized)
    shape = weight.values.shape if isinstance(weight, Quantized) else weight.shape
    return shape, lambda part: weight if part is None else weight[part], integers


def _floats(weight: Weight) -> F32:
    return weight.dequantize() if isinstance(weight, Quantized) else weight


def is_wide(name: str, shape: Sequence[int]) -> bool:
    """Whether this is a matrix of the decoder, [n, k], with more outputs than inputs."""
    return name.startswith("model.decoder.") and name.endswith(_MATRICES) and shape[0] > shape[1]


def by_columns(shape: Shape, rows: Callable[[slice], NDArray[Any]]) -> F32:  # [n, k] -> [n, k]
    """A matrix with each column in one piece, as the transpose of a contiguous array.

    OpenBLAS multiplies one row with a wide weight that lies so at the speed of memory, and at half
    of it if its rows are in one piece. ``rows`` gives some of its rows, to any thread.
    """
    columns = np.empty(shape[::-1], np.float32)
    blocks = spans(shape[0], -(-shape[0] // _ROWS))

    def turn(piece: int) -> None:
        # Few rows at a time: what is read and what is written stay in a second-level cache.
        columns[:, blocks[piece]] = rows(blocks[piece]).T

    workers().run(turn, len(blocks))
    turned: F32 = columns.T
    return turned


def _quantized(name: str, shape: Shape, rows: Rows, as_stored: bool) -> Quantized:
    def quantized(part: slice | None) -> Quantized:
        weight = rows(part)
        try:
            return weight if isinstance(weight, Quantized) else quantize_weight(weight)
        except ValueError as error:
            raise ModelError(f"tensor {name} {error}: it cannot be quantised") from None

    if as_stored:
        return quantized(None)
    # A large one not all at once, which takes several times its memory.
    parts = spans(shape[0], -(-math.prod(shape) // _QUANTIZED))
    if len(parts) == 1:
        return quantized(parts[0])
    values, scale = np.empty(shape, np.int8), np.empty(shape[0], np.float32)
    for part in parts:
        done = quantized(part)
        values[part], scale[part] = done.values, done.scale
    return Quantized(values, scale)
