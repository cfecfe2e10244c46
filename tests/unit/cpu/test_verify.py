"""Verification finds kernels that are right, and finds out those that are not."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whisper_npu.backends.cpu import evidence as evidence_module
from whisper_npu.backends.cpu.bind import BINDERS
from whisper_npu.backends.cpu.build import find_build
from whisper_npu.backends.cpu.case import Case
from whisper_npu.backends.cpu.cases import CASES
from whisper_npu.backends.cpu.evidence import (
    FILE_NAME,
    CpuEvidence,
    find_evidence,
    library_hash,
    read_evidence,
    record_evidence,
)
from whisper_npu.backends.cpu.kernels import load_library
from whisper_npu.backends.cpu.library import Function, Library, LinearInt8, QuantizeRows
from whisper_npu.backends.cpu.verify import run_case
from whisper_npu.backends.numpy.specification import Bound
from whisper_npu.ops.quant import linear_int8


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
    found = {(e.kernel, e.isa): e.failure for e in read_evidence()}
    expected = {(f"cpu_{kind}", isa) for kind in BINDERS for isa in library.isas}
    # There are none where they would not pay.
    vnni = [isa for isa in library.isas if isa in ("avx512_vnni", "amx")]
    expected -= {("cpu_attention_int16", isa) for isa in library.isas if isa not in vnni}
    assert set(found) == expected
    assert set(found.values()) == {None}


def test_there_are_cases_for_every_kernel() -> None:
    assert set(CASES) == set(BINDERS)


class Broken:
    """A library whose kernels are followed by something that they must not do."""

    def __init__(self, library: Library, damage: Callable[[Any], int]) -> None:
        self._library, self._damage = library, damage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def function(self, name: str) -> Function:
        right = self._library.function(name)
        structure = {"cpu_quantize_rows": QuantizeRows, "cpu_linear_int8": LinearInt8}[name]

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


def _case(kind: str) -> Case:
    return next(CASES[kind](np.random.default_rng(1)))


@pytest.mark.parametrize(
    ("kind", "damage", "failure"),
    [
        ("quantize_rows", lambda args: 0, None),
        ("linear_int8", lambda args: 0, None),
        ("linear_int8", lambda args: 1, "did not take its arguments"),
        ("linear_int8", _change(lambda args: args.out), "1 of 1 values differ"),
        ("quantize_rows", _change(lambda args: args.values + 383), "1 of 384 values differ"),
        ("quantize_rows", _change(lambda args: args.values + 384), "wrote outside"),
        ("quantize_rows", _change(lambda args: args.scale - 1), "wrote outside"),
        ("quantize_rows", _change(lambda args: args.x), "changed an input"),
        ("linear_int8", _change(lambda args: args.w), "changed an input"),
        ("linear_int8", _change(lambda args: args.w_scale - 1), "wrote outside"),
    ],
)
def test_what_a_kernel_must_not_do(
    library: Library, kind: str, damage: Callable[[Any], int], failure: str | None
) -> None:
    found, _ = run_case(Broken(library, damage), _case(kind))  # type: ignore[arg-type]
    assert found == failure if failure is None else failure in (found or "")


def test_a_kernel_that_does_nothing(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "function", lambda name: lambda address: 0, raising=False)
    found, _ = run_case(library, _case("quantize_rows"))
    assert found is not None
    assert "values differ" in found


def test_small_errors_of_many_outputs_are_seen_in_the_mean(library: Library) -> None:
    cases = list(CASES["attention"](np.random.default_rng(0)))
    many = next(case for case in cases if case.outputs[0].size >= 1000)
    few = next(case for case in cases if case.name == "times 6 (2, 5, 16)")
    found, worst = run_case(library, many)
    assert found is None
    assert 0 < worst < 1
    assert run_case(library, replace(many, rms_share=worst))[0] is None
    failure, _ = run_case(library, replace(many, rms_share=worst / 100))
    assert failure is not None
    assert "times what is allowed in the mean" in failure
    assert run_case(library, replace(few, rms_share=worst / 100))[0] is None


def test_sums_that_int32_might_not_hold_are_refused(library: Library) -> None:
    op = _case("linear_int8").op
    k = 65537
    x, w = np.zeros((1, k), np.int8), np.zeros((1, k), np.int8)
    one = np.ones(1, np.float32)
    case = Case("", op, (x, one, w, one), (np.empty((1, 1), np.float32),), np.empty(3 * k, "f4"))
    assert run_case(library, case)[0] == "did not take its arguments"


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512", "avx512_vnni", "amx", "dotprod"])
def test_the_largest_sums(library: Library, isa: str) -> None:
    """128 * 127 * k, in every lane: no step may saturate."""
    if isa not in library.isas:
        pytest.skip(f"this CPU has no {isa}")
    library.choose_isa(isa)
    library.threads = 2
    rng = np.random.default_rng(0)
    one = np.ones(1, np.float32)
    for m in (1, 6, 40):
        for k in (1280, 5120):
            x = np.full((m, k), -128, np.int8)
            w = np.full((70, k), 127, np.int8)
            w[rng.integers(0, 70, 30)] = -128
            ones = np.ones(70, np.float32)
            out, scratch = np.empty((m, 70), "f4"), np.empty(3 * m * k + m * 70, "f4")
            op = _case("linear_int8").op
            case = Case("", op, (x, one.repeat(m), w, ones), (out,), scratch)
            assert run_case(library, case)[0] is None


def test_arrays_that_do_not_lie_as_wanted_are_left_to_numpy(library: Library) -> None:
    from whisper_npu.backends.cpu.bind import Place
    from whisper_npu.backends.cpu.library import Scratch

    case = _case("linear_int8")
    x, x_scale, w, w_scale, *_ = (np.repeat(a, 2, axis=0) for a in case.inputs)
    out = np.empty((2, 2), np.float32)
    place = Place(library, Scratch(1))

    def bind(*inputs: Any, out: Any = out) -> ctypes.Structure | None:
        return BINDERS["linear_int8"](place, Bound(case.op, inputs, (out,), None))

    assert bind(x, x_scale, w, w_scale) is not None
    assert bind(x, x_scale, w.astype(np.float32), w_scale) is None
    wide = np.zeros((2, 6), np.int8)[:, ::2]
    assert bind(wide, x_scale, np.zeros((2, 3), np.int8), w_scale) is None
    assert bind(x, x_scale, w, w_scale, out=out.T) is None
    assert bind(x, x_scale.astype(np.float64), w, w_scale) is None


def test_weights_as_integers_are_the_same_to_numpy() -> None:
    """What falls back gives the same floats."""
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-127, 128, (n, 2048), np.int8) for n in (3, 5))
    scales = [rng.random(n, np.float32) for n in (3, 5)]
    expected = linear_int8(x, scales[0], w.astype(np.float32), scales[1])
    assert np.array_equal(linear_int8(x, scales[0], w, scales[1]), expected)


# Evidence


def _evidence(**changes: Any) -> CpuEvidence:
    evidence = CpuEvidence("l", "c", "i", "k", 1, 0.5, None, "date", "producer")
    return replace(evidence, **changes)


def test_evidence_is_for_one_library_processor_and_instruction_set(cache_home: Path) -> None:
    assert read_evidence() == []
    record_evidence([_evidence(), _evidence(kernel="other", failure="wrong")])
    record_evidence([_evidence(isa="j"), _evidence(cases=2)])
    assert len(read_evidence()) == 3
    found = find_evidence("l", "c", "i")
    assert {name: e.passed for name, e in found.items()} == {"k": True, "other": False}
    assert found["k"].cases == 2
    for key in (("m", "c", "i"), ("l", "d", "i"), ("l", "c", "k")):
        assert find_evidence(*key) == {}


@pytest.mark.parametrize("text", ["", "{}", '{"evidence": [{}]}', '{"evidence": 3}', "[" * 99_999])
def test_damaged_evidence_is_none(cache_home: Path, text: str) -> None:
    record_evidence([_evidence()])
    (cache_home / "cpu" / FILE_NAME).write_text(text)
    assert read_evidence() == []


def test_evidence_of_wrong_types_is_none(cache_home: Path) -> None:
    record_evidence([_evidence(failure=0), _evidence(cases="1"), _evidence(kernel=1)])
    assert read_evidence() == []


def test_evidence_that_is_too_large(cache_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_evidence([_evidence()])
    monkeypatch.setattr(evidence_module, "_MAX_BYTES", 10)
    assert read_evidence() == []


def test_the_hash_is_of_the_whole_library(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"abc")
    before = library_hash(file)
    file.write_bytes(b"abd")
    assert library_hash(file) != before
