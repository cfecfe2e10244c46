"""The instruction sets are listed once, in isas.h."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from whisper_npu.backends.cpu import build
from whisper_npu.backends.cpu.build import build_folder, build_library, find_build, source_folder
from whisper_npu.backends.cpu.isas import Isa, isas_for, read_isas
from whisper_npu.backends.cpu.library import load_library
from whisper_npu.errors import KernelError

ISAS = """\
// X(name) is explained here.
#define ISAS_EVERYWHERE(X) X(plain, plain, "")

#define ISAS_X86_64(X) \\
  X(wide, wide, "-mwide") \\
  X(wider, wide, \\
    "-mwide -mmore " \\
    "-mmost")

#define ISAS(X) ISAS_EVERYWHERE(X) ISAS_X86_64(X)
"""


def _read(tmp_path: Path, text: str) -> tuple[Isa, ...]:
    (tmp_path / "isas.h").write_text(text)
    return read_isas(tmp_path)


def test_what_a_list_says(tmp_path: Path) -> None:
    plain, wide, wider = found = _read(tmp_path, ISAS)
    assert plain == Isa("plain", "plain", (), "EVERYWHERE")
    assert wide == Isa("wide", "wide", ("-mwide",), "X86_64")
    assert wider == Isa("wider", "wide", ("-mwide", "-mmore", "-mmost"), "X86_64")
    assert [isa.has_floats for isa in found] == [True, True, False]
    assert isas_for("x86_64", found) == isas_for("AMD64", found) == found
    assert isas_for("arm64", found) == (plain,)
    assert isas_for("vax", found) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ISAS.replace('"-mwide") \\', "-mwide) \\"), "ISAS_X86_64 is not understood at 'X.wide, w"),
        (ISAS.replace("X(wider, wide, ", "X(wider, "), "ISAS_X86_64 is not understood at 'X.wider"),
        (ISAS.replace("ISAS_X86_64(X) \\", "ISAS_X86_64(Y) \\"), "a list is not understood: '#def"),
        ("", "there are no instruction sets in it"),
    ],
)
def test_a_list_that_is_not_understood(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(KernelError, match=rf"isas\.h: {message}"):
        _read(tmp_path, text)


def test_the_sets_and_options_that_the_library_is_made_with() -> None:
    """By hand, once: bits of results depend on options."""
    isas = read_isas(source_folder())
    names = ["scalar", "dotprod", "avx2", "avx512", "avx512_vnni", "amx"]
    assert [isa.name for isa in isas] == names
    assert [isa.floats for isa in isas] == ["scalar", "scalar", *names[2:5], "avx512_vnni"]
    avx2 = ("-mavx2", "-mfma")
    avx512 = (
        *avx2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"
    )  # fmt: skip
    vnni = (*avx512, "-mavx512vnni")
    amx = (*vnni, "-mamx-tile", "-mamx-int8")
    assert [isa.options for isa in isas] == [
        (), ("-march=armv8.2-a+dotprod",), avx2, avx512, vnni, amx
    ]  # fmt: skip
    x86 = [isa.name for isa in isas_for("x86_64", isas)]
    assert x86 == ["scalar", "avx2", "avx512", "avx512_vnni", "amx"]
    assert [isa.name for isa in isas_for("aarch64", isas)] == ["scalar", "dotprod"]


def test_the_library_has_the_sets_of_the_list_in_its_order(cpu_home: Path) -> None:
    build = find_build()
    assert build is not None
    library = load_library(build.path)
    listed = [isa.name for isa in isas_for(platform.machine(), read_isas(source_folder()))]
    # What the processor has is some of them.
    assert library.isas == [name for name in listed if name in library.isas]
    # An unknown name is 1, one that the processor does not have 2, one that it has 0.
    before = library.isa
    found = {name: library._library.cpu_choose_isa(name.encode()) for name in [*listed, "sse9"]}
    library.choose_isa(before)
    there = {name: 0 if name in library.isas else 2 for name in listed}
    assert found == {**there, "sse9": 1}


def test_floats_are_compiled_for_those_that_have_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "sources"
    folder.mkdir()
    for name in (
        "api.h",
        "fixed_point.cc",
        "floats.cc",
        "integer_attention.cc",
        "log_mel.cc",
        "pool.cc",
    ):
        (folder / name).write_text("")
    _read(folder, ISAS)
    monkeypatch.setattr(build, "shipped_file", lambda name: folder / "api.h")
    monkeypatch.setattr(build.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(build, "find_compiler", lambda: ["cc"])
    commands: list[list[str]] = []

    def run(command: list[str]) -> str:
        commands.append(list(command))
        if "-o" in command:
            Path(command[command.index("-o") + 1]).write_bytes(b"")
        return "cc 1"

    monkeypatch.setattr(build, "_run", run)
    build_library()
    made = {
        Path(command[command.index("-o") + 1]).name: [
            option for option in command if option.startswith(("-DVARIANT", "-m"))
        ]
        for command in commands
        if "-c" in command
    }
    wider = ["-DVARIANT=wider", "-mwide", "-mmore", "-mmost"]
    assert made == {
        "fixed_point.plain.o": ["-DVARIANT=plain"],
        "fixed_point.wide.o": ["-DVARIANT=wide", "-mwide"],
        "fixed_point.wider.o": wider,
        "floats.plain.o": ["-DVARIANT=plain"],
        "floats.wide.o": ["-DVARIANT=wide", "-mwide"],
        "integer_attention.plain.o": ["-DVARIANT=plain"],
        "integer_attention.wide.o": ["-DVARIANT=wide", "-mwide"],
        "log_mel.plain.o": ["-DVARIANT=plain"],
        "log_mel.wide.o": ["-DVARIANT=wide", "-mwide"],
        "pool.o": [],
    }
    assert build_folder().is_dir()
