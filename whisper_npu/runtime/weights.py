"""The weights of a model in the forms that its plans want: each is made once, from the file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from whisper_npu.errors import KernelError
from whisper_npu.model.checkpoint import StoredWeights
from whisper_npu.model.integer_weights import IntegerWeights
from whisper_npu.model.weight_shapes import Shape, matrix_shape
from whisper_npu.ops.arrays import F32
from whisper_npu.ops.linear import conv_matrix
from whisper_npu.ops.quant import Quantized
from whisper_npu.runtime.backend import Array, Form
from whisper_npu.runtime.packed import PackedFile, PackedTensor, tell
from whisper_npu.runtime.workers import in_threads, spans, workers

Weight = F32 | Quantized
Rows = Callable[[slice | None], Weight]
Key = tuple[str, Form]

# Rows that are turned into columns at a time.
_ROWS = 256


class Weights:
    """The weights of a model in several forms, by the names that graphs of a precision use.

    ``stored`` are those of a float model (int8 weights among them are dequantised, convolutions
    become matrices) or integer weights. ``constants`` are tensors that no file has. What ``load``
    was not asked for is made when ``get`` asks for it. Raises what reading the weights raises.
    """

    def __init__(
        self,
        stored: Mapping[str, Weight] | IntegerWeights,
        constants: Mapping[str, Array] | None = None,
    ) -> None:
        self._source: _Integers | _Floats
        if isinstance(stored, IntegerWeights):
            self._source, self._precision = _Integers(stored), "int8"
        else:
            self._source, self._precision = _Floats(stored), "float32"
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
        # These first, as scales come with their matrix; one after the other, as a device does one
        # thing at a time.
        for key in keys:
            if key[1].packing is not None and key not in self._held:
                try:
                    self._held[key] = self._pack(*key)
                except KernelError as error:
                    self._errors[key] = type(error), str(error)
        here = [key for key in keys if key[1].packing is None and key not in self._held]
        if not files or not self._map(files, here):
            self._make(here, self._keep)

    def release(self) -> None:
        """Forget the weights in memory of backends."""
        for key in [key for key in self._held if key[1].packing is not None]:
            del self._held[key]
        self._errors.clear()

    def _keep(self, key: Key, array: Array) -> None:
        self._held[key] = array

    def _map(self, files: Mapping[Path, os.stat_result], keys: Iterable[Key]) -> bool:
        """Map a packed file, which is made first where there is none; False if that cannot be."""
        tensors = {
            (name, form): PackedTensor(name, form.dtype, self._source.shape(name), form.order)
            for name, form in keys
        }
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

    def _make(self, keys: Iterable[Key], give: Callable[[Key, Array], None]) -> None:
        """Convert weights, each read by one of several threads, and give each as it is done.

        A weight is not held any longer than it takes to convert it; large ones are read in parts.
        """
        by_name: dict[str, list[Form]] = {}
        for name, form in keys:
            by_name.setdefault(name, []).append(form)
        # In the order of the source: the largest first.
        order = [name for name in self._source if name in by_name]
        missing = by_name.keys() - set(order)
        if missing:
            raise KeyError(min(missing))

        def convert(name: str) -> None:
            for form, array in self._source.make(name, by_name[name]):
                give((name, form), array)

        in_threads(convert, order)

    def _pack(self, name: str, form: Form) -> Array:
        """A weight in memory of a backend. Raises KernelError."""
        assert form.packing is not None
        packed = form.packing.take(name, self._source.shape(name))
        ((_, values),) = self._source.make(name, [Form(form.dtype)])
        form.packing.fill(packed, values, 0)
        return packed


class _Integers:
    """Makes the forms of integer weights."""

    def __init__(self, stored: IntegerWeights) -> None:
        self._stored = stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def shape(self, name: str) -> Shape:
        return self._stored.specification[name][0]

    def make(self, name: str, forms: Iterable[Form]) -> Iterator[tuple[Form, Array]]:
        values = self._stored[name]
        for form in forms:
            if form.order == "F":
                yield form, by_columns(values.shape, values.__getitem__, form.dtype)
            else:
                yield form, values.astype(form.dtype, copy=False)


class _Floats:
    """Makes the forms of the weights of a float model."""

    def __init__(self, stored: Mapping[str, Weight]) -> None:
        self._stored = stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def shape(self, name: str) -> Shape:
        return matrix_shape(self._rows(name)[0])

    def make(self, name: str, forms: Iterable[Form]) -> Iterator[tuple[Form, Array]]:
        shape, rows = self._rows(name)
        for form in forms:
            if form.order == "F":
                yield form, by_columns(shape, lambda part: _floats(rows(part)), form.dtype)
            else:
                values = _floats(rows(None))
                yield form, conv_matrix(values) if values.ndim == 3 else values

    def _rows(self, name: str) -> tuple[Shape, Rows]:
        """The shape of a weight, and what gives some rows of it, or (None) all of it to be kept."""
        stored = self._stored
        if isinstance(stored, StoredWeights):
            return stored.shapes[name], partial(stored.rows, name)
        weight = stored[name]
        shape = weight.values.shape if isinstance(weight, Quantized) else weight.shape
        return shape, lambda part: weight if part is None else weight[part]


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
