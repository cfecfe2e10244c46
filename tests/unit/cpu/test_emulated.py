"""The variants of instruction sets that this CPU has not, on instructions that are emulated in C.

Every kernel is verified as on a processor that has them: what is found out are wrong addresses,
layouts and widths, and instructions that do something else than the code expects.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cpu_library import require_compiler
from whisper_npu.backends.cpu import build
from whisper_npu.backends.cpu.build import Build, build_library, source_folder
from whisper_npu.backends.cpu.isas import Isa
from whisper_npu.backends.cpu.library import Library
from whisper_npu.backends.cpu.verify_library import verify_library

HEADER = Path(__file__).parent / "emulated_x86.h"
# Instructions that are written as such: the file, the instruction, and what it is where it is
# emulated.
IN_C = (
    (
        "pair_vectors.h",
        """asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));""",
        "sum = (Ints)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);",
    ),
    (
        "pair_vectors.h",
        """asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(without), "v"(with));""",
        "sum = (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)without, (__m512i)with);",
    ),
    (
        "product_vectors.h",
        """asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(without_sign), "v"(with_sign));""",
        "sum = _mm512_dpbusd_epi32(sum, without_sign, with_sign);",
    ),
)
# What EMULATED_LEVEL has to be for each.
LEVELS = {"avx512": 1, "avx512_vnni": 2, "amx": 3}


def _emulated(isa: Isa) -> Isa:
    """The set with the compiler's options for its emulation; the others as they are."""
    if isa.name not in LEVELS:
        return isa
    level = f"-DEMULATED_LEVEL={LEVELS[isa.name]}"
    return isa._replace(options=("-mavx2", "-mfma", "-include", str(HEADER), level))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    """The library of sources in which every instruction set is said to be there."""
    require_compiler()
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists() or " avx2 " not in cpuinfo.read_text():
        pytest.skip("this CPU has no AVX2, of which the emulation is made")
    folder = tmp_path_factory.mktemp("emulated")
    sources, isas = folder / "sources", build._isas()
    shutil.copytree(source_folder(), sources)
    for name, assembly, in_c in IN_C:
        text = (sources / name).read_text()
        assert assembly in text
        (sources / name).write_text(text.replace(assembly, in_c))
    there = "".join(f"bool has_{isa.name}() {{ return true; }}\n" for isa in isas)
    name = "void find_cpu_name(char *name, size_t) { *name = 0; }\n"
    (sources / "isa.cc").write_text(f'#include "isa.h"\n{there}{name}')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "source_folder", lambda: sources)
        patch.setattr(build, "_isas", lambda: tuple(map(_emulated, isas)))
        patch.setenv("CXXFLAGS", "-O1")
        yield build_library(folder=folder / "made")


@pytest.mark.long
@pytest.mark.parametrize("isa", LEVELS)
def test_all_kernels(made: Build, isa: str) -> None:
    library = Library(made.path)
    found = {each.kernel: each.failure for each in verify_library(library, made.sha256, [isa])}
    assert len(found) > 20
    assert set(found.values()) == {None}, found
