"""The record of a CPU kernel: what it takes, how it is called, verified and described.

A kernel is a C function of ``api.h`` and one record in ``whisper_npu.backends.cpu.kernels``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from whisper_npu.backends.cpu.api import Api
from whisper_npu.backends.cpu.library import Library, Scratch
from whisper_npu.backends.cpu.op_case import OpCase, Random, outer_names
from whisper_npu.errors import KernelError
from whisper_npu.model.graph import Graph, Op
from whisper_npu.runtime.backend import Array, Bound, Form, chain

EXACT = "exact"
FLOATS, BYTES, INTEGERS = Form("float32"), Form("int8"), Form("int64")
SHORTS, FIXED_POINT = Form("int16"), Form("int32")

Ops = tuple[Op, ...]
# Fields of a structure that are no pointers to tensors; None is a pointer to nothing.
Values = Mapping[str, "int | float | None"]


class Place(NamedTuple):
    """What a call is bound to besides its arrays."""

    library: Library
    scratch: Scratch


class TensorField(NamedTuple):
    """A tensor that a kernel reads or writes, and the field of the structure that points to it.

    ``form`` is the one that it takes; its dtype is that of the graph, or is ``also`` there. If an
    ``optional`` tensor is missing, the pointer is null.
    """

    name: str
    form: Form = FLOATS
    optional: bool = False
    also: str | None = None

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Those that it takes."""
        return (self.form.dtype,) if self.also is None else (self.form.dtype, self.also)

    def takes(self, array: Array) -> bool:
        """Whether an array lies as the kernel reads it. An empty one does not: no op has any."""
        if array.size == 0 or array.dtype.name not in self.dtypes or not array.flags.aligned:
            return False
        return array.flags.f_contiguous if self.form.order == "F" else array.flags.c_contiguous


def _refuses_none(graph: Graph, ops: Ops) -> str | None:
    return None


class CpuKernel(NamedTuple):
    """One kernel: the function ``name`` of ``api.h``, which takes a ``structure`` of it.

    It computes a region of ops of these ``kinds``, of which each reads what the one before it
    writes. ``reads`` and ``writes`` stand in the order of ``case.outer_names``; the tensors of an
    optional argument are there or not. ``values`` gives the other fields of the structure from the
    ops and the arrays, by the arguments' names; a field ``scratch`` is filled with the place's.
    ``scratch`` gives the bytes of it that each of so many threads needs for a structure.
    ``refuses`` says why the kernel does not take ops of its kinds, None if it does.

    Kernels for longer regions are asked first. ``in_place`` says that the output may be written
    over the first input.

    ``cases`` is for verification: inputs, and the errors that are allowed. All else is for people:
    ``model`` is the function in ``whisper_npu.ops`` that specifies the kernel, and ``exactness``
    "exact", or within what of it the outputs are. ``sources`` are files of kernels/src/cpu.
    """

    name: str
    kinds: tuple[str, ...]
    structure: str
    reads: tuple[TensorField, ...]
    writes: tuple[TensorField, ...]
    values: Callable[[Ops, Mapping[str, Array]], Values]
    cases: Callable[[Random], Iterator[OpCase]]
    layout: str
    arithmetic: str
    sources: tuple[str, ...]
    model: str | None = None
    exactness: str = EXACT
    notes: tuple[str, ...] = ()
    scratch: Callable[[Library, ctypes.Structure, int], int] | None = None
    refuses: Callable[[Graph, Ops], str | None] = _refuses_none
    in_place: bool = False

    @property
    def op(self) -> str:
        """The kinds of op that it serves, for people."""
        return " + ".join(self.kinds)

    def region(self, graph: Graph, index: int) -> Ops | None:
        """The ops from ``index`` on that it computes, None if they are of other kinds."""
        if len(self.kinds) > 1:
            return chain(graph, index, *self.kinds)
        op = graph.ops[index]
        return (op,) if op.kind == self.kinds[0] else None

    def arguments(self, ops: Ops) -> Iterator[tuple[TensorField, str]]:
        """Each argument with the name of its tensor, without the optional ones that are missing."""
        for arguments, names in zip((self.reads, self.writes), outer_names(ops), strict=True):
            if len(names) < len(arguments):
                arguments = tuple(each for each in arguments if not each.optional)
            yield from zip(arguments, names, strict=True)

    def objection(self, graph: Graph, ops: Ops) -> str | None:
        """Why it does not compute these ops of its kinds, None if it does."""
        reason = self.refuses(graph, ops)
        if reason is not None:
            return reason
        for argument, name in self.arguments(ops):
            if graph[name].dtype not in argument.dtypes:
                return (
                    f"{self.name} takes {argument.name} as {' or '.join(argument.dtypes)}; "
                    f"{name} is {graph[name].dtype}"
                )
        return None

    def forms(self, ops: Ops) -> dict[str, tuple[Form, ...]]:
        """The forms of tensors that it does not take by rows."""
        return {
            name: (argument.form,)
            for argument, name in self.arguments(ops)
            if argument.form.order != "C"
        }

    def bind(self, place: Place, bound: Bound) -> ctypes.Structure:
        """The structure for a call, which points to the arrays; made once.

        Raises ValueError for an array that does not lie as it was asked for: no pointer to it may
        get to the kernel.
        """
        structure = place.library.structure(self.structure)
        fields = [field[0] for field in structure._fields_]
        arrays: dict[str, Array] = {}
        for argument, name in self.arguments(bound.ops):
            array = arrays[argument.name] = bound.arrays[name]
            if not argument.takes(array):
                raise ValueError(
                    f"op {bound.ops[0].name}: {self.name} takes {name} as {argument.form}, not "
                    f"{array.dtype} of shape {array.shape} with strides {array.strides}"
                )
        given: dict[str, int | float | None] = {
            each.name: None for each in self.reads if each.optional
        }
        given.update(self.values(bound.ops, arrays))
        given.update({name: array.ctypes.data for name, array in arrays.items()})
        if "scratch" in fields:
            given["scratch"] = place.scratch.address
        if given.keys() != set(fields):
            raise KernelError(
                f"{self.name}: {self.structure} has {', '.join(fields)}, given are "
                f"{', '.join(given)}"
            )
        args = structure(**given)
        if self.scratch is not None:
            place.scratch.reserve(self.scratch(place.library, args, place.scratch.threads))
        return args

    def check(self, api: Api) -> None:
        """Raises KernelError if ``api.h`` has no such function, or one of another structure."""
        function = api.functions.get(self.name)
        if function is None or function.structure != self.structure:
            takes = "is not there" if function is None else f"takes {function.structure}"
            raise KernelError(f"{self.name} {takes} in api.h; its record has {self.structure}")
        names = {field[0] for field in api.structures[self.structure]._fields_}
        for argument in (*self.reads, *self.writes):
            if argument.name not in names:
                raise KernelError(
                    f"{self.name} has an argument {argument.name}, which is no field of "
                    f"{self.structure} in api.h"
                )
