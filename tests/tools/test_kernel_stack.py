"""The stack check: the kernels fit, and what does not fit is found."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tools.tables import kernel_stack
from tools.tables.kernel_stack import (
    AIE2,
    Frame,
    compilers,
    deepest,
    measure,
    program_bytes,
    read_frames,
)

COMPILER = next(filter(shutil.which, kernel_stack.COMPILERS), None)

needs_compiler = pytest.mark.skipif(
    COMPILER is None or shutil.which("make") is None,
    reason="no C++ compiler or no make: install g++ and make",
)


STACK_BYTES = 1024
PROGRAM_BYTES = 16 * 1024


@needs_compiler
@pytest.mark.parametrize("name", compilers())
def test_kernels_fit(name: str) -> None:
    """With this machine's compiler and, where PEANO_INSTALL_DIR is set, with that of the core."""
    command, flags = compilers()[name]
    found = measure(command, flags)
    assert {use.source for use in found} >= {"gelu", "gemm_i8", "layer_norm", "softmax"}
    assert [use for use in found if use.variable or use.stack > STACK_BYTES] == []
    if flags == AIE2:
        assert [use for use in found if use.program > PROGRAM_BYTES] == []


def gelu(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> kernel_stack.Use:
    """What GELU needs if this is its source."""
    shutil.copytree(kernel_stack.SOURCES, folder / "src")
    (folder / "src" / "gelu.cc").write_text(code)
    monkeypatch.setattr(kernel_stack, "SOURCES", folder / "src")
    assert COMPILER is not None
    (use,) = (use for use in measure(COMPILER, kernel_stack.HOST) if use.source == "gelu")
    return use


@needs_compiler
def test_large_frame_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = 'extern "C" int f(int i) { volatile char a[1100]; a[i] = 1; return a[i + 1]; }'
    assert STACK_BYTES < gelu(tmp_path, monkeypatch, code).stack < 1200


@needs_compiler
def test_frame_that_depends_on_data_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        'extern "C" int f(int i) {'
        " auto a = static_cast<volatile char *>(__builtin_alloca(i)); a[0] = 1; return a[i - 1]; }"
    )
    assert len(gelu(tmp_path, monkeypatch, code).variable) == 1


def test_frames_of_both_compilers(tmp_path: Path) -> None:
    path = tmp_path / "x.su"
    path.write_text(
        "gelu.cc:33:6:void gelu_f32_1024(const float*, float*)\t8\tstatic\n"
        "gemm_i8.h:16:13:void tiles::multiply_column(int) [with int K = 64]\t104\tstatic\n"
        "gemm_i8.cc:5:gemm_i8_i32_64x64x64\t16\tdynamic\n"
        "gemm_i8.cc:39:_ZN5tiles4gemmILi64EEEv\t88\tstatic\n"
        "gemm_i8.cc:39:_ZN5tiles4gemmILi16EEEv\t90\tstatic\n"
    )
    frames = read_frames(path)
    assert frames == [
        Frame("void gelu_f32_1024(const float*, float*)", 8, True),
        Frame("void tiles::multiply_column(int) [with int K = 64]", 104, True),
        Frame("gemm_i8_i32_64x64x64", 16, False),
        Frame("_ZN5tiles4gemmILi64EEEv", 88, True),
        Frame("_ZN5tiles4gemmILi16EEEv", 90, True),
    ]
    assert [frame.helper for frame in frames] == [None, "multiply_column", None, "gemm", "gemm"]
    assert deepest(frames) == 16 + 104 + 90


@needs_compiler
def test_core_compiler_is_asked_for_the_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peano = tmp_path / "peano" / "bin" / "clang++"
    peano.parent.mkdir(parents=True)
    peano.write_text(
        "#!/bin/sh\n"
        '[ "$1" = --target=aie2-none-unknown-elf ] || exit 9\n'
        f'shift\nexec {COMPILER} "$@"\n'
    )
    peano.chmod(0o755)
    monkeypatch.setenv("PEANO_INSTALL_DIR", str(tmp_path / "peano"))
    (use, *_) = measure(*compilers()["Peano"])
    assert use.program > 100


def test_program_bytes_wants_an_object(tmp_path: Path) -> None:
    path = tmp_path / "x.o"
    path.write_bytes(b"no object")
    with pytest.raises(ValueError, match="not an ELF file"):
        program_bytes(path)
