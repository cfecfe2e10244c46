"""Verification finds kernels that are right, and finds out those that are not."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whisper_npu.backends import evidence as evidence_module
from whisper_npu.backends.cpu.build import find_build
from whisper_npu.backends.cpu.kernels import KERNELS
from whisper_npu.backends.cpu.kernels.fixed_rows import QUANTIZE_INT32
from whisper_npu.backends.cpu.kernels.integer_attention import ATTENTION_INT8
from whisper_npu.backends.cpu.kernels.product_int8 import PRODUCT_INT8
from whisper_npu.backends.cpu.library import CpuFunction, Library, Scratch, load_library
from whisper_npu.backends.cpu.library_evidence import CpuEvidence, CpuEvidenceStore
from whisper_npu.backends.cpu.op_case import OpCase
from whisper_npu.backends.cpu.records import CpuKernel, Place
from whisper_npu.backends.cpu.verify_library import Expected, run_case, verify_library
from whisper_npu.backends.numpy.specification import specify
from whisper_npu.model.graph import Op
from whisper_npu.ops.arrays import I32
from whisper_npu.ops.attention_int import attention_int8
from whisper_npu.ops.fixed import FRACTION
from whisper_npu.ops.product_int8 import product_int8
from whisper_npu.ops.rows import limit
from whisper_npu.runtime.backend import Bound

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture
def library(cpu_home: Path) -> Iterator[Library]:
    build = find_build()
    assert build is not None
    loaded = load_library(build.path)
    isa, threads = loaded.isa, loaded.threads
    yield loaded
    loaded.choose_isa(isa)
    loaded.threads = threads


def test_all_kernels_pass_in_every_instruction_set(library: Library) -> None:
    found = {(e.kernel, e.isa): e.failure for e in CpuEvidenceStore().all().values()}
    expected = {(kernel.name, isa) for kernel in KERNELS for isa in library.isas}
    assert set(found) == expected
    assert set(found.values()) == {None}


def _is_of_floats(kernel: CpuKernel) -> bool:
    """Whether it makes floats of floats: those of the integer network's scales are all finite."""
    of_floats = any(field.form.dtype == "float32" for field in kernel.writes)
    return of_floats and kernel.reads[0].form.dtype == "float32"


OF_FLOATS = [kernel for kernel in KERNELS if _is_of_floats(kernel)]


@pytest.mark.parametrize("kernel", OF_FLOATS, ids=lambda kernel: kernel.name)
def test_numbers_that_are_not_finite_are_among_the_cases(kernel: CpuKernel) -> None:
    inputs = [
        array
        for case in kernel.cases(np.random.default_rng(0))
        for array in case.inputs
        if array.dtype.kind == "f" and array.size > 1
    ]
    assert any(np.isnan(array).any() for array in inputs)
    assert any((array == np.inf).any() for array in inputs)
    assert any((array == -np.inf).any() for array in inputs)
    assert any((array == 0).all(axis=-1).any() for array in inputs)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_empty_arrays_never_get_to_a_kernel(library: Library, kernel: CpuKernel) -> None:
    case = _case(kernel)
    for array in (*case.inputs, *case.outputs):
        if array.ndim > 0:
            inputs, outputs = (
                [each[:0] if each is array else each for each in arrays]
                for arrays in (case.inputs, case.outputs)
            )
            with pytest.raises(ValueError, match=r"of shape \(0,"):
                kernel.bind(Place(library, Scratch(library)), case.bound(inputs, outputs))


def test_arrays_lie_everywhere_within_a_cache_line(library: Library) -> None:
    places: set[int] = set()

    def note(args: Any) -> int:
        places.add(args.w % 64)
        return 0

    broken: Any = Broken(library, note)
    (evidence,) = verify_library(broken, "", [library.isa], [PRODUCT_INT8])
    assert evidence.passed
    assert places == set(range(64))
    # One that needs a multiple of 8 is found out.
    broken = Broken(library, lambda args: args.w % 8)
    (evidence,) = verify_library(broken, "", [library.isa], [PRODUCT_INT8])
    assert not evidence.passed


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_there_are_cases_for_every_kernel(kernel: CpuKernel) -> None:
    case = _case(kernel)
    assert tuple(op.kind for op in case.ops) == kernel.kinds
    # All of them allow that float32 rounds, or nothing.
    allowed = case.allowed()
    assert allowed is None or 0 < allowed.max() < 1e-2


class Broken:
    """A library whose kernels are followed by something that they must not do."""

    def __init__(self, library: Library, damage: Callable[[Any], int]) -> None:
        self._library, self._damage = library, damage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def function(self, name: str) -> CpuFunction:
        right = self._library.function(name)
        record = {kernel.name: kernel for kernel in KERNELS}[name]
        structure = self._library.structure(record.structure)

        def wrong(address: int) -> int:
            assert right(address) == 0
            return self._damage(structure.from_address(address))

        return wrong


def _byte(address: int) -> ctypes.c_uint8:
    return ctypes.c_uint8.from_address(address)


def _change(byte: Callable[[Any], int]) -> Callable[[Any], int]:
    def damage(args: Any) -> int:
        _byte(byte(args)).value ^= 1
        return 0

    return damage


def _case(kernel: CpuKernel) -> OpCase:
    return next(kernel.cases(np.random.default_rng(1)))


@pytest.mark.parametrize(
    ("kernel", "damage", "failure"),
    [
        (QUANTIZE_INT32, lambda args: 0, None),
        (PRODUCT_INT8, lambda args: 0, None),
        (PRODUCT_INT8, lambda args: 1, "did not take its arguments"),
        (PRODUCT_INT8, _change(lambda args: args.out), "1 of 1 values differ"),
        (QUANTIZE_INT32, _change(lambda args: args.values + 383), "1 of 384 values differ"),
        (QUANTIZE_INT32, _change(lambda args: args.values + 384), "wrote outside"),
        (QUANTIZE_INT32, _change(lambda args: args.scale - 1), "wrote outside"),
        (QUANTIZE_INT32, _change(lambda args: args.x), "changed an input"),
        (PRODUCT_INT8, _change(lambda args: args.w), "changed an input"),
        (PRODUCT_INT8, _change(lambda args: args.w_scale - 1), "wrote outside"),
    ],
)
def test_what_a_kernel_must_not_do(
    library: Library, kernel: CpuKernel, damage: Callable[[Any], int], failure: str | None
) -> None:
    broken: Any = Broken(library, damage)
    found, _ = run_case(broken, kernel, _case(kernel))
    assert found == failure if failure is None else failure in (found or "")


def test_a_kernel_that_does_nothing(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "function", lambda name: lambda address: 0, raising=False)
    found, _ = run_case(library, QUANTIZE_INT32, _case(QUANTIZE_INT32))
    assert found is not None
    assert "values differ" in found


@pytest.mark.parametrize("dtype", [np.int8, np.int16])
def test_sums_that_int32_might_not_hold_are_refused(library: Library, dtype: Any) -> None:
    ops = _without_bias(_case(PRODUCT_INT8))
    k = 65537
    x, w = np.zeros((1, k), dtype), np.zeros((1, k), np.int8)
    one = np.ones(1, np.float32)
    case = OpCase("", ops, (x, one, w, one), (np.empty((1, 1), np.int32),))
    assert run_case(library, PRODUCT_INT8, case)[0] == "did not take its arguments"


def _without_bias(case: OpCase) -> tuple[Op, ...]:
    (op,) = case.ops
    return (replace(op, inputs=op.inputs[:4]),)


def _attention_int8(q: I32, k: I32, v: I32) -> OpCase:
    op = Op("out", "attention_int8", ("q", "k", "v"), ("out",), (("n_head", 1),))
    return OpCase("", (op,), (q, k, v), (np.empty_like(q),))


@pytest.mark.parametrize(("t", "d_head"), [(8193, 1), (1, 257)])
def test_windows_that_are_too_long_or_too_wide_are_refused(
    library: Library, t: int, d_head: int
) -> None:
    """For sums that float64 may have to round, and for rows that there is no room for."""
    case = _attention_int8(*(np.zeros((1, t, d_head), np.int32) for _ in "qkv"))
    assert run_case(library, ATTENTION_INT8, case)[0] == "did not take its arguments"


OVER_WINDOWS = [
    kernel
    for kernel in KERNELS
    if {"position", "slot"}.intersection(field.name for field in kernel.reads)
]


@pytest.mark.parametrize("kernel", OVER_WINDOWS, ids=lambda kernel: kernel.name)
def test_windows_that_do_not_lie_within_the_caches_are_refused(
    library: Library, kernel: CpuKernel
) -> None:
    """Whichever it is of several; and then nothing is written, of the others neither."""
    rng = np.random.default_rng(0)
    case = next(case for case in kernel.cases(rng) if len(case.inputs[-1]) > 1)
    names = [field.name for field in kernel.reads]
    place = Place(library, Scratch(library))

    def run(change: Callable[[Any, dict[str, Any]], None]) -> tuple[int, bool]:
        """What the kernel returns for changed arguments, and whether it has written anything."""
        copies = {id(array): array.copy() for array in (*case.inputs, *case.outputs)}
        inputs, outputs = ([copies[id(a)] for a in each] for each in (case.inputs, case.outputs))
        for array in outputs:
            if not any(array is each for each in inputs):
                array.view(np.uint8).fill(77)
        before = [array.copy() for array in outputs]
        args: Any = kernel.bind(place, case.bound(inputs, outputs))
        change(args, dict(zip(names, inputs, strict=True)))
        code = library.function(kernel.name)(ctypes.addressof(args))
        pairs = zip(before, outputs, strict=True)
        return code, any(a.tobytes() != b.tobytes() for a, b in pairs)

    assert run(lambda args, arrays: None) == (0, True)

    def put(name: str, window: int, beyond: int | None, args: Any, arrays: dict[str, Any]) -> None:
        context = args.ctx if hasattr(args, "ctx") else args.t
        last = args.slots - 1 if name == "slot" else context - args.n
        arrays[name][window] = -1 if beyond is None else last + beyond

    for window in range(len(case.inputs[-1])):
        for name in {"position", "slot"}.intersection(names):
            for beyond, expected in ((0, (0, True)), (1, (3, False)), (None, (3, False))):
                assert run(partial(put, name, window, beyond)) == expected, (name, window, beyond)
    if {"position", "slot"} <= set(names):

        def fewer(args: Any, arrays: dict[str, Any]) -> None:
            args.members = args.group - 1

        assert run(fewer) == (3, False)


def test_the_kernels_over_windows() -> None:
    assert {kernel.name for kernel in OVER_WINDOWS} == {
        "cpu_cached_attention",
        "cpu_cached_attention_int16",
        "cpu_cross_attention",
        "cpu_cross_attention_int32",
        "cpu_embed_int32",
        "cpu_store_cache",
        "cpu_store_int16",
    }


def test_the_longest_window(library: Library) -> None:
    """Equal keys and the largest values: sums of 28 bits, and 51 with reciprocal and scale."""
    t = 8192
    q, k, v = (np.full((1, t, 1), value, np.int32) for value in (1, 1, 127 * 255 << 11))
    v[0, -1] -= 255 << 11
    case = _attention_int8(q, k, v)
    # All queries are alike.
    rows = np.repeat(attention_int8(q[:, :1], k, v, 1), t, axis=1)
    library.threads = 2
    for isa in library.isas:
        library.choose_isa(isa)
        found = run_case(library, ATTENTION_INT8, case, Expected((rows,), None))
        assert found == (None, 0.0), isa


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512", "avx512_vnni", "amx", "dotprod"])
def test_the_largest_sums(library: Library, isa: str) -> None:
    """127 * k times the largest of a row, in every lane: no step may saturate."""
    if isa not in library.isas:
        pytest.skip(f"this CPU has no {isa}")
    library.choose_isa(isa)
    library.threads = 2
    rng = np.random.default_rng(0)
    ops = _without_bias(_case(PRODUCT_INT8))
    # Outputs are the sums.
    w_scale = np.full(70, 2.0**-FRACTION, np.float32)
    for bits in (8, 16):
        for m in (1, 6, 40):
            for k in (1280, 5120):
                x = np.full((m, k), -limit(bits, k), f"int{bits}")
                w = np.full((70, k), 127, np.int8)
                w[rng.integers(0, 70, 30)] = -127
                inputs = (x, np.ones(m, np.float32), w, w_scale)
                case = OpCase("", ops, inputs, (np.empty((m, 70), np.int32),))
                assert run_case(library, PRODUCT_INT8, case)[0] is None


def test_arrays_that_do_not_lie_as_wanted_never_get_to_a_kernel(library: Library) -> None:
    case = _case(PRODUCT_INT8)
    (op,) = _without_bias(case)
    x, x_scale, w, w_scale, *_ = (np.repeat(a, 2, axis=0) for a in case.inputs)
    right = np.empty((2, 2), np.int32)
    place = Place(library, Scratch(library))

    def bind(*inputs: Any, out: Any = right) -> ctypes.Structure:
        return PRODUCT_INT8.bind(place, Bound.of(op, inputs, (out,)))

    assert bind(x, x_scale, w, w_scale) is not None
    wide = np.zeros((2, 6), np.int8)[:, ::2]
    offset = np.zeros(9, np.uint8)[1:].view(np.float32)
    for name, wrong in {
        "w": lambda: bind(x, x_scale, w.astype(np.float32), w_scale),
        "x": lambda: bind(wide, x_scale, np.zeros((2, 3), np.int8), w_scale),
        "out": lambda: bind(x, x_scale, w, w_scale, out=right.T),
        "x_scale": lambda: bind(x, x_scale.astype(np.float64), w, w_scale),
        "w_scale": lambda: bind(x, x_scale, w, offset),
    }.items():
        with pytest.raises(
            ValueError, match=f"^op out: cpu_product_int8 takes {name} as .* by row"
        ):
            wrong()
    failure, _ = run_case(library, PRODUCT_INT8, case._replace(inputs=(wide, *case.inputs[1:])))
    assert failure is not None
    assert failure.startswith("op out: cpu_product_int8 takes x as int8 by rows, not int8 of shape")


def test_weights_as_integers_are_the_same_to_numpy() -> None:
    """What falls back gives the same integers."""
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-127, 128, (n, 2048), np.int8) for n in (3, 5))
    scales = [np.ldexp(np.float32(1), rng.integers(-12, 0, n)) for n in (3, 5)]
    expected = product_int8(x, scales[0], w.astype(np.float32), scales[1])
    (op,), out = _without_bias(_case(PRODUCT_INT8)), np.empty((3, 5), np.int32)
    specify(Bound.of(op, (x, scales[0], w, scales[1]), (out,)))()
    assert np.array_equal(out, expected)
    assert np.abs(out).max() > 0


# Evidence


def _evidence(**changes: Any) -> CpuEvidence:
    evidence = CpuEvidence("l", "c", "i", "k", 1, 0.5, None, "date", "producer")
    return replace(evidence, **changes)


def test_evidence_is_for_one_library_processor_and_instruction_set(cache_home: Path) -> None:
    store = CpuEvidenceStore()
    assert store.all() == {}
    store.record(_evidence(), _evidence(kernel="other", failure="wrong"))
    store.record(_evidence(isa="j"), _evidence(cases=2))
    assert len(store.all()) == 3
    found = store.find("l", "c", "i")
    assert {name: e.passed for name, e in found.items()} == {"k": True, "other": False}
    assert found["k"].cases == 2
    for key in (("m", "c", "i"), ("l", "d", "i"), ("l", "c", "k")):
        assert store.find(*key) == {}


@pytest.mark.parametrize("text", ["", "{}", '{"evidence": [{}]}', '{"evidence": 3}', "[" * 99_999])
def test_damaged_evidence_is_none(cache_home: Path, text: str) -> None:
    store = CpuEvidenceStore()
    store.record(_evidence())
    store.path.write_text(text)
    assert store.all() == {}
    store.record(_evidence())
    assert len(store.all()) == 1


def test_evidence_of_wrong_types_is_none(cache_home: Path) -> None:
    for wrong in ({"failure": 0}, {"cases": "1"}, {"kernel": 1}, {"worst_error": None}):
        CpuEvidenceStore().record(_evidence(**wrong))
        assert CpuEvidenceStore().all() == {}


def test_evidence_that_is_too_large(cache_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CpuEvidenceStore().record(_evidence())
    monkeypatch.setattr(evidence_module, "_MAX_BYTES", 10)
    assert CpuEvidenceStore().all() == {}


def test_a_file_of_an_earlier_version(cache_home: Path) -> None:
    """As released: where it is not understood, all users have to build again."""
    (cache_home / "cpu").mkdir(parents=True)
    shutil.copy(DATA / "evidence" / "cpu.json", cache_home / "cpu" / "evidence.json")
    found = CpuEvidenceStore().find("5c" * 32, "Intel(R) Xeon(R) Processor @ 2.70GHz", "avx512")
    assert {name: (e.passed, e.cases) for name, e in found.items()} == {
        "cpu_product_int8": (True, 36),
        "cpu_gelu": (False, 3),
    }
