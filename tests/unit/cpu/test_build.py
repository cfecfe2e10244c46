from __future__ import annotations

import ctypes
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cpu_library import require_compiler
from whisper_npu.backends.cpu import build
from whisper_npu.backends.cpu.build import (
    build_folder,
    build_library,
    find_build,
    find_compiler,
    install_library,
    installed_folder,
    why_no_build,
)
from whisper_npu.backends.cpu.library_file import check_library_file
from whisper_npu.errors import KernelError
from whisper_npu.files.temporary import temporary_name
from whisper_npu.files.whole import file_sha256

TINY = """
extern "C" __attribute__((visibility("default"))) int answer() { return ANSWER; }
#ifndef ANSWER
#error "compiled without the options of a variant"
#endif
"""


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of sources that compile in no time."""
    require_compiler()
    for variable in ("CXX", "CXXFLAGS"):
        monkeypatch.delenv(variable, raising=False)
    folder = tmp_path / "kernels" / "src" / "cpu"
    folder.mkdir(parents=True)
    (folder / "api.h").write_text("")
    (folder / "isas.h").write_text('#define ISAS_EVERYWHERE(X) X(one, one, "-DANSWER=1")\n')
    (folder / "fixed_point.cc").write_text(TINY)
    monkeypatch.setattr(build, "shipped_file", lambda name: folder / "api.h")
    return folder


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KernelError, match=r"^no C\+\+ compiler: looked for c\+\+, g\+\+, clang"):
        build_library()
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    with pytest.raises(KernelError, match=r"looked for no-such-compiler; install"):
        build_library()
    monkeypatch.setenv("CXX", "c++ '")
    with pytest.raises(KernelError, match=r"^CXX: No closing quotation"):
        build_library()
    assert not build_folder().exists()


def test_a_compiler_of_ones_own_with_options(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = tmp_path / "my c++"
    own.touch(mode=0o755)
    monkeypatch.setenv("CXX", f"'{own}' -O1")
    assert find_compiler() == [str(own), "-O1"]


def test_a_processor_without_kernels(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.platform, "machine", lambda: "vax")
    with pytest.raises(KernelError, match=r"there are no CPU kernels for \w+ vax"):
        build_library()
    # There is nothing to be done about it.
    assert install_library(installed_folder()) is None
    assert why_no_build() == f"there are no CPU kernels for {platform.system()} vax"


def test_a_library_is_made_once(sources: Path, cache_home: Path) -> None:
    assert find_build() is None
    made = build_library()
    assert made.path.parent == made.folder == cache_home / "cpu"
    assert made.sha256 == file_sha256(made.path)
    assert find_build() == made
    first = made.path.stat()
    assert build_library() == made
    assert made.path.stat().st_ino == first.st_ino
    assert build_library(force=True) == made
    assert made.path.stat().st_ino != first.st_ino
    assert sorted(os.listdir(build_folder())) == sorted([made.library, "library.json"])


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "fixed_point.cc").write_text(TINY + "// another\n"),
        lambda folder: (folder / "more.h").write_text(""),
        lambda folder: (folder / "fixed_point.cc").rename(folder / "other.cc"),
    ],
)
def test_a_library_of_other_sources_is_not_used(
    sources: Path, change: Callable[[Path], object]
) -> None:
    old = build_library()
    change(sources)
    assert find_build() is None
    (sources / "other.cc").unlink(missing_ok=True)
    (sources / "fixed_point.cc").write_text(TINY + "// new\n")
    new = build_library()
    assert new.library != old.library
    assert not old.path.exists()


def test_other_options_make_another_library(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = build_library()
    monkeypatch.setattr(build, "_FLAGS", (*build._FLAGS, "-DMORE"))
    assert build_library().library != old.library


def test_options_of_ones_own(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (sources / "fixed_point.cc").write_text(TINY.replace("ANSWER; }", "ANSWER + MORE; }"))
    monkeypatch.setenv("CXXFLAGS", "-DMORE='40 + 1'")
    made = build_library()
    assert ctypes.CDLL(str(made.path)).answer() == 42
    assert "-DMORE=40 + 1" in made.flags
    monkeypatch.setenv("CXXFLAGS", "-DMORE=2")
    assert build_library().library != made.library


def test_a_library_that_was_changed_is_made_again(sources: Path) -> None:
    made = build_library()
    before = made.path.read_bytes()
    made.path.write_bytes(before + b"more")
    again = build_library()
    assert again == made
    assert made.path.read_bytes() == before


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o077])
def test_what_is_written_can_be_loaded_whatever_the_umask(sources: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        made = build_library()
    finally:
        os.umask(before)
    assert made.path.stat().st_mode & 0o777 == 0o755
    assert made.folder.stat().st_mode & 0o022 == 0
    check_library_file(made.path, made.sha256)


def test_a_library_of_ones_own_comes_before_the_installed_one(sources: Path) -> None:
    installed = install_library(installed_folder())
    assert installed is not None
    assert installed.folder == sources.parents[1] / "lib"
    assert find_build() == installed
    own = build_library()
    assert (own.folder, own.library) == (build_folder(), installed.library)
    assert find_build() == own
    (build_folder() / "library.json").unlink()
    assert find_build() == installed
    (sources / "more.h").write_text("")
    assert find_build() is None
    assert why_no_build().startswith("CPU kernels were compiled from other sources than these: run")


def test_an_installation_says_why_it_compiled_nothing(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert why_no_build() == "CPU kernels are not built: run whisper-npu kernels build"
    with monkeypatch.context() as without:
        without.setenv("CXX", "no-such-compiler")
        assert install_library(installed_folder()) is None
    assert os.listdir(installed_folder()) == ["library.json"]
    assert find_build() is None
    assert why_no_build() == (
        "CPU kernels were not compiled when whisper-npu was installed: no C++ compiler: looked for "
        "no-such-compiler; install g++ or clang++, or name one in CXX; when that is put right, run "
        "whisper-npu kernels build"
    )
    own = build_library()
    assert find_build() == own
    # Where there is a compiler when it is installed again, there is a library.
    assert install_library(installed_folder()) is not None
    assert len(os.listdir(installed_folder())) == 2


def test_what_the_compiler_says(sources: Path) -> None:
    (sources / "fixed_point.cc").write_text("int f() { return nothing_like_that; }\n")
    with pytest.raises(KernelError) as caught:
        build_library()
    assert "nothing_like_that" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert find_build() is None
    assert os.listdir(build_folder()) == []


@pytest.mark.filterwarnings("ignore:.*library.json")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        '{"library": "../../x.so", "sources": "s", "compiler": "", "flags": "", "sha256": ""}',
        '{"library": 3, "sources": "s", "compiler": "", "flags": "", "sha256": ""}',
        # Of an earlier version: what is not known to be what was compiled is not loaded.
        '{"library": "kernels-0123456789abcdef.so", "sources": "s", "compiler": "", "flags": ""}',
    ],
)
def test_a_damaged_record_is_no_library(sources: Path, text: str) -> None:
    build_library()
    (build_folder() / "library.json").write_text(text)
    assert find_build() is None


@pytest.mark.parametrize("text", ["{", "[]", '{"library": 3}', "\0"])
def test_why_a_damaged_record_is_none(sources: Path, text: str) -> None:
    record = build_folder() / "library.json"
    record.parent.mkdir(parents=True)
    record.write_text(text)
    assert why_no_build().startswith(f"CPU kernels are not built: {record}: is damaged")
    with pytest.warns(UserWarning, match=rf"^{record}: is damaged.*; run whisper-npu"):
        assert find_build() is None
    record.unlink()
    os.mkfifo(record)
    assert f"{record}: cannot be read: is not a regular file; run" in why_no_build()
    # What is built takes its place.
    assert build_library() == find_build()


def test_a_library_is_replaced_after_the_new_one_is_whole(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every step the record names a library that is as the record says."""
    old = build_library()
    (sources / "fixed_point.cc").write_text(TINY + "extern int more; int more = 2;\n")
    monkeypatch.setattr(build, "source_hash", lambda: old.sources)
    replace, found = os.replace, []

    def watched(*names: str) -> None:
        replace(*names)
        there = find_build()
        assert there is not None
        check_library_file(there.path, there.sha256)
        found.append(there)

    monkeypatch.setattr(os, "replace", watched)
    new = build_library(force=True)
    assert found == [old, new]
    assert sorted(os.listdir(build_folder())) == sorted([new.library, "library.json"])


def test_what_a_killed_build_left_is_removed(sources: Path) -> None:
    made = build_library()
    left = temporary_name(build_folder() / "build")
    left.mkdir()
    (left / "x.o").touch()
    (build_folder() / "kernels-0123456789abcdef.so").touch()
    assert build_library() == made
    assert sorted(os.listdir(build_folder())) == sorted([made.library, "library.json"])


def test_a_library_that_is_gone(sources: Path) -> None:
    build_library().path.unlink()
    assert find_build() is None


def test_a_library_of_another_folder(sources: Path, tmp_path: Path) -> None:
    made = build_library()
    outside = tmp_path / "kernels-0123456789abcdef.so"
    made.path.rename(outside)
    record = json.loads((build_folder() / "library.json").read_text())
    for name in (str(outside), f"../../{outside.name}"):
        (build_folder() / "library.json").write_text(json.dumps({**record, "library": name}))
        assert find_build() is None
