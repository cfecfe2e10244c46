"""The weights of a model in the forms that its plans want: each is made once, from the file."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from whisper_npu.errors import KernelError, ModelError
from whisper_npu.model.checkpoint import StoredWeights
from whisper_npu.model.precision import Precision
from whisper_npu.model.weight_shapes import Shape, is_quantizable, matrix_shape, scale_name
from whisper_npu.ops.arrays import F32
from whisper_npu.ops.linear import conv_matrix
from whisper_npu.ops.quant import Quantized, quantize_weight
from whisper_npu.runtime.backend import Array, Form
from whisper_npu.runtime.packed import PackedFile, PackedTensor, tell
from whisper_npu.runtime.workers import in_threads, spans, workers

Weight = F32 | Quantized
Rows = Callable[[slice | None], Weight]
Key = tuple[str, Form]

# Rows that are turned into columns at a time.
_ROWS = 256
# Values of a weight that are quantised at a time.
_QUANTIZED = 1 << 22


class Weights:
    """The weights of a checkpoint, by the names that graphs of a precision use, in several forms.

    ``float32`` dequantises int8 weights, ``int8`` quantises the weights of a floating-point model;
    convolutions become matrices. ``constants`` are tensors that no file has. What ``load`` was not
    asked for is made when ``get`` asks for it. Raises what reading the checkpoint raises, and
    ModelError for NaN or infinity in a weight that is to be quantised.
    """

    def __init__(
        self,
        stored: Mapping[str, Weight],
        precision: Precision,
        constants: Mapping[str, Array] | None = None,
    ) -> None:
        self._stored, self._precision = stored, precision
        self._names = frozenset(stored)
        self._held: dict[Key, Array] = {}
        # As types and messages: an error that was raised keeps the frames that it went through.
        self._errors: dict[Key, tuple[type[KernelError], str]] = {}
        for name, array in (constants or {}).items():
            self._held[name, Form(str(array.dtype))] = array

    @property
    def forms(self) -> dict[str, tuple[Form, ...]]:
        """The forms that each weight is held in."""
        forms: dict[str, tuple[Form, ...]] = {}
        for name, form in self._held:
            forms[name] = (*forms.get(name, ()), form)
        return forms

    def nbytes(self, name: str | None = None) -> int:
        """Bytes of all forms of a weight, or of all weights."""
        return sum(a.nbytes for (of, _), a in self._held.items() if name in (None, of))

    def get(self, name: str, form: Form) -> Array:
        """A weight in a form, not to be written to.

        Raises KernelError where memory of a backend for it cannot be had, and KeyError for a name
        that no weight has.
        """
        key = name, form
        if key in self._errors:
            kind, message = self._errors.pop(key)
            raise kind(message)
        if key not in self._held:
            if form.packing is not None:
                self._held[key] = self._pack(name, form)
            else:
                self._make([key], self._keep)
        return self._held[key]

    def load(
        self,
        wanted: Mapping[str, tuple[Form, ...]],
        files: Mapping[Path, os.stat_result] | None = None,
    ) -> None:
        """Have weights in the forms that are wanted of them.

        If the ``files`` of the model are given, what lies in host memory is mapped from a packed
        file, which is made if it is not there. A form for which a backend has no memory raises its
        KernelError when it is asked for.
        """
        keys = [(name, form) for name, forms in wanted.items() for form in forms]
        # Scales come with what is packed.
        scales = {scale_name(name) for name, form in keys if form.packing is not None}
        here = [
            (name, form)
            for name, form in keys
            if form.packing is None and (name, form) not in self._held and name not in scales
        ]
        if not files or not self._map(files, here):
            self._make(here, self._keep)
        # In order, and one after the other: a device does one thing at a time.
        for key in keys:
            if key[1].packing is not None and key not in self._held:
                try:
                    self._held[key] = self._pack(*key)
                except KernelError as error:
                    self._errors[key] = type(error), str(error)

    def release(self) -> None:
        """Forget the weights in memory of backends."""
        for key in [key for key in self._held if key[1].packing is not None]:
            del self._held[key]
        self._errors.clear()

    def _keep(self, key: Key, array: Array) -> None:
        self._held[key] = array

    def _map(self, files: Mapping[Path, os.stat_result], keys: Iterable[Key]) -> bool:
        """Map a packed file, which is made first where there is none; False if that cannot be."""
        tensors = {key: self._described(*key) for key in keys}
        file = PackedFile(files, tensors.values(), self._precision)
        try:
            found = file.open()
            if found is None:
                with file.writer() as writer:
                    self._make(tensors, lambda key, array: writer.write(tensors[key], array))
                found = file.open()
        except OSError as error:
            tell("%s: is not kept: %s", file.path, error.strerror or error)
            return False
        if found is None:
            tell("%s: is gone as soon as it was made", file.path)
            return False
        self._held.update({key: found[tensor] for key, tensor in tensors.items()})
        return True

    def _described(self, name: str, form: Form) -> PackedTensor:
        base = self._base(name)
        shape, _, _ = self._source(base)
        return PackedTensor(
            name, form.dtype, shape[:1] if base != name else matrix_shape(shape), form.order
        )

    def _base(self, name: str) -> str:
        """The weight of the checkpoint that a tensor comes of: of scales, the integers'."""
        base = name if name in self._names else name.removesuffix(scale_name(""))
        if base not in self._names:
            raise KeyError(name)
        return base

    def _make(self, keys: Iterable[Key], give: Callable[[Key, Array], None]) -> None:
        """Convert weights, each read by one of several threads, and give each as it is done.

        A weight is not held any longer than it takes to convert it; large ones are read in parts.
        """
        by_base: dict[str, list[Key]] = {}
        for name, form in keys:
            by_base.setdefault(self._base(name), []).append((name, form))
        # In the order of the checkpoint: the largest first.
        order = [name for name in self._stored if name in by_base]

        def convert(base: str) -> None:
            shape, rows, integers = self._source(base)
            quantized: Quantized | None = None
            if self._precision == "int8" and is_quantizable(base, shape):
                as_stored = integers and by_base[base][0][1] == Form("int8") and len(shape) == 2
                quantized = _quantized(base, shape, rows, as_stored)
            for key in by_base[base]:
                if key[0] != base:
                    assert quantized is not None
                    give(key, quantized.scale)
                else:
                    give(key, _in_form(shape, rows, quantized, key[1]))

        in_threads(convert, order)

    def _pack(self, name: str, form: Form) -> Array:
        """A weight in memory of a backend, filled straight from the file. Raises KernelError."""
        assert form.packing is not None
        shape, rows, _ = self._source(name)
        packed = form.packing.take(name, matrix_shape(shape))
        group = form.packing.rows
        count = max(group, _QUANTIZED // math.prod(shape[1:]) // group * group)
        scales = []
        for start in range(0, shape[0], count):
            part = slice(start, min(start + count, shape[0]))
            quantized = _quantized(
                name, (part.stop - start, *shape[1:]), _within(rows, part), False
            )
            values: Array = quantized.values
            form.packing.fill(packed, _matrix(values), start)
            scales.append(quantized.scale)
        self._held.setdefault((scale_name(name), Form("float32")), np.concatenate(scales))
        return packed

    def _source(self, name: str) -> tuple[Shape, Rows, bool]:
        """The shape of a weight, what gives some rows of it, or (None) all of it to be kept, and
        whether they are integers."""
        stored = self._stored
        if isinstance(stored, StoredWeights):
            return stored.shapes[name], partial(stored.rows, name), name in stored.integers
        weight = stored[name]
        integers = isinstance(weight, Quantized)
        shape = weight.values.shape if isinstance(weight, Quantized) else weight.shape
        return shape, lambda part: weight if part is None else weight[part], integers


def _within(rows: Rows, part: slice) -> Rows:
    """What gives rows of a part of a weight."""

    def some(inner: slice | None) -> Weight:
        if inner is None:
            return rows(part)
        return rows(slice(part.start + inner.start, part.start + inner.stop))

    return some


def _in_form(shape: Shape, rows: Rows, quantized: Quantized | None, form: Form) -> Array:
    if quantized is not None:
        values: Array = quantized.values
        if form.order == "F":
            return by_columns(shape, values.__getitem__, form.dtype)
        return _matrix(values.astype(form.dtype, copy=False))
    if form.order == "F":
        return by_columns(shape, lambda part: _floats(rows(part)), form.dtype)
    return _matrix(_floats(rows(None)))


def _matrix(values: Array) -> Array:  # [n, c, 3] -> [n, 3 c]; others as they are
    return conv_matrix(values) if values.ndim == 3 else values


def _floats(weight: Weight) -> F32:
    return weight.dequantize() if isinstance(weight, Quantized) else weight


def by_columns(
    shape: Shape, rows: Callable[[slice], Any], dtype: str = "float32"
) -> Array:  # [n, k] -> [n, k]
    """A matrix with each column in one piece, as the transpose of a contiguous array.

    ``rows`` gives some of its rows, to any thread.
    """
    columns = np.empty(shape[::-1], dtype)
    blocks = spans(shape[0], -(-shape[0] // _ROWS))

    def turn(piece: int) -> None:
        # Few rows at a time: what is read and what is written stay in a second-level cache.
        columns[:, blocks[piece]] = rows(blocks[piece]).T

    workers().run(turn, len(blocks))
    turned: Array = columns.T
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
