"""Records, api.h and the library agree; a record checks what it is given."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whisper_npu.backends.cpu.api import Api, read_api
from whisper_npu.backends.cpu.build import find_build, source_folder
from whisper_npu.backends.cpu.kernels import KERNELS
from whisper_npu.backends.cpu.kernels.attention_over_cache import CACHED_ATTENTION
from whisper_npu.backends.cpu.kernels.copies import STORE_CACHE
from whisper_npu.backends.cpu.kernels.elementwise import ADD, GELU
from whisper_npu.backends.cpu.kernels.product_int8 import PRODUCT_INT8
from whisper_npu.backends.cpu.library import Library, Scratch, load_library
from whisper_npu.backends.cpu.op_case import OpCase, outer_names
from whisper_npu.backends.cpu.records import FIXED_POINT, CpuKernel, Place, TensorField
from whisper_npu.errors import KernelError
from whisper_npu.model.graph import Op
from whisper_npu.model.kinds import KINDS
from whisper_npu.runtime.backend import Bound, Form

EACH = pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)


@pytest.fixture
def library(cpu_home: Path) -> Library:
    build = find_build()
    assert build is not None
    return load_library(build.path)


@pytest.fixture(scope="module")
def api() -> Api:
    return read_api(source_folder())


def test_every_kernel_of_the_library_has_one_record(api: Api) -> None:
    """A kernel is what returns 32 bits and takes nothing but a structure."""
    kernels = {
        name
        for name, function in api.functions.items()
        if function.structure is not None and function.result is ctypes.c_int32
    }
    assert kernels == {kernel.name for kernel in KERNELS}
    assert len(kernels) == len(KERNELS) == 25


@EACH
def test_a_record_fits_the_library(library: Library, kernel: CpuKernel) -> None:
    kernel.check(library.api)
    assert library.function(kernel.name).__name__ == kernel.name  # type: ignore[attr-defined]
    assert set(kernel.kinds) <= set(KINDS)
    assert all((source_folder() / source).is_file() for source in kernel.sources)


@EACH
def test_what_is_bound_is_what_api_h_asks_for(library: Library, kernel: CpuKernel) -> None:
    """Every field has a value, every pointer that of its array, scratch enough for the function."""
    case = next(kernel.cases(np.random.default_rng(0)))
    bound = case.bound(case.inputs, case.outputs)
    # Held until the call: the structure points to its scratch.
    place = Place(library, Scratch(library))
    args: Any = kernel.bind(place, bound)
    for argument, name in kernel.arguments(case.ops):
        assert getattr(args, argument.name) == bound.arrays[name].ctypes.data
    # ``heads`` is no size: it has a bit for each head whose scores are kept.
    sizes = [
        getattr(args, name)
        for name, of, *_ in type(args)._fields_
        if of is ctypes.c_int64 and name != "heads"
    ]
    assert sizes
    assert min(sizes) > 0
    assert library.function(kernel.name)(ctypes.addressof(args)) == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (GELU._replace(name="cpu_tan"), "cpu_tan is not there in api.h; its record has Gelu"),
        (GELU._replace(structure="Add"), "cpu_gelu takes Gelu in api.h; its record has Add"),
        (GELU._replace(structure="Tan"), "cpu_gelu takes Gelu in api.h; its record has Tan"),
        (GELU._replace(name="cpu_run"), "cpu_run takes None in api.h; its record has Gelu"),
        (
            GELU._replace(reads=(TensorField("xs"),)),
            "cpu_gelu has an argument xs, which is no field of Gelu in api.h",
        ),
    ],
)
def test_a_record_that_does_not_fit_the_library(api: Api, changed: CpuKernel, message: str) -> None:
    GELU.check(api)
    with pytest.raises(KernelError) as caught:
        changed.check(api)
    assert str(caught.value) == message


def _bound(kernel: CpuKernel) -> Bound:
    case = next(kernel.cases(np.random.default_rng(0)))
    return case.bound(case.inputs, case.outputs)


@pytest.mark.parametrize(
    "values", [{}, {"count": 1, "counts": 2}], ids=["one is missing", "one is not there"]
)
def test_fields_that_are_not_those_of_the_structure(
    library: Library, values: dict[str, int]
) -> None:
    kernel = GELU._replace(values=lambda ops, arrays: values)
    with pytest.raises(KernelError, match=r"^cpu_gelu: Gelu has x, out, count, given are "):
        kernel.bind(Place(library, Scratch(library)), _bound(GELU))


def test_a_null_pointer_stands_for_what_is_missing(library: Library) -> None:
    with_bias, without = (
        case
        for case, _ in zip(PRODUCT_INT8.cases(np.random.default_rng(0)), range(2), strict=False)
    )
    for case, null in ((with_bias, False), (without, True)):
        bound = case.bound(case.inputs, case.outputs)
        args: Any = PRODUCT_INT8.bind(Place(library, Scratch(library)), bound)
        assert (args.bias is None) == null
        assert args.scratch is not None


def test_windows_lie_in_slots_of_whole_caches(library: Library) -> None:
    place = Place(library, Scratch(library))
    op = Op("cache", "store_cache", ("x", "cache", "position", "slot"), ("cache",))
    x, position, slot = np.zeros((4, 1, 4), np.float32), np.array([0, 3]), np.array([5, 1])
    memory = np.zeros((6, 3, 2, 8, 2), np.float32)

    def bind(cache: Any, x: Any = x, slot: Any = slot) -> Any:
        return STORE_CACHE.bind(place, Bound.of(op, (x, cache, position, slot), (cache,)))

    sizes = {"b": 4, "n": 1, "group": 2, "t": 8, "n_head": 2, "d_head": 2, "slots": 6, "members": 3}
    bound = bind(memory)
    assert {name: getattr(bound, name) for name in sizes} == sizes
    assert bind(memory[:5]).slots == 5
    for wrong in (memory[::2], memory[:, :2], memory.transpose(0, 2, 1, 3, 4), memory[..., :1]):
        with pytest.raises(ValueError, match=r"^op cache: cpu_store_cache takes cache as float"):
            bind(wrong)
    with pytest.raises(ValueError, match=r"^op cache: cpu_store_cache takes x as float32 b"):
        bind(memory, np.zeros((8, 1, 4), np.float32)[::2])
    for wrong in (slot.astype(np.int32), np.array([5, 0, 1, 0])[::2]):
        with pytest.raises(ValueError, match=r"^op cache: cpu_store_cache takes slot as int64 b"):
            bind(memory, slot=wrong)


def test_keys_and_values_lie_alike(library: Library) -> None:
    bound = _bound(CACHED_ATTENTION)
    place = Place(library, Scratch(library))
    CACHED_ATTENTION.bind(place, bound)
    slots, *rest = bound.arrays["v"].shape
    apart = np.zeros((2 * slots, *rest[:-1], 2 * rest[-1]), np.float32)[::2, ..., ::2]
    with pytest.raises(ValueError, match=r"^op out: cpu_cached_attention takes v as float32 by r"):
        CACHED_ATTENTION.bind(place, bound._replace(arrays={**bound.arrays, "v": apart}))


def test_a_tensor_by_columns() -> None:
    by_columns = TensorField("x", Form("float32", "F"))
    x = np.zeros((2, 3), np.float32)
    assert [by_columns.takes(array) for array in (x, x.T)] == [False, True]
    assert [TensorField("x").takes(array) for array in (x, x.T)] == [True, False]
    kernel = GELU._replace(reads=(by_columns,))
    op = Op("out", "gelu", ("in",), ("out",))
    assert kernel.forms((op,)) == {"in": (Form("float32", "F"),)}
    assert GELU.forms((op,)) == {}


def _pairs(kernel: CpuKernel, *ops: Op) -> list[tuple[str, str]]:
    return [(argument.name, name) for argument, name in kernel.arguments(ops)]


def test_tensors_of_a_region_and_arguments() -> None:
    """Inner ones are nobody's; an optional one may be missing in the middle."""
    gelu = Op("b", "gelu", ("a",), ("b",))
    add = Op("c", "add", ("b", "y"), ("c",))
    assert outer_names((gelu, add)) == (["a", "y"], ["c"])
    both = ADD._replace(kinds=("gelu", "add"))
    assert _pairs(both, gelu, add) == [("x", "a"), ("y", "y"), ("out", "c")]
    product = Op("h", "product_int8", ("q", "s", "w", "t", "bias"), ("h",))
    residual = Op("out", "add_int32", ("h", "y"), ("out",))
    reads = (*PRODUCT_INT8.reads, TensorField("y", FIXED_POINT))
    fused = PRODUCT_INT8._replace(kinds=("product_int8", "add_int32"), reads=reads)
    names = ["q", "s", "w", "t", "bias", "y", "out"]
    assert [name for _, name in _pairs(fused, product, residual)] == names
    product = replace(product, inputs=product.inputs[:4])
    found = _pairs(fused, product, residual)
    assert found[3:] == [("w_scale", "t"), ("y", "y"), ("out", "out")]


def test_a_case_binds_what_is_written_where_it_lies() -> None:
    def cases() -> Iterator[OpCase]:
        return STORE_CACHE.cases(np.random.default_rng(0))

    case = next(cases())
    bound = case.bound(case.inputs, case.outputs)
    assert list(bound.arrays) == ["x", "cache", "position", "slot"]
    assert bound.arrays["cache"] is case.inputs[1] is case.outputs[0]
