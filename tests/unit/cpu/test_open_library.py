"""Which library is loaded, and that nobody can change it once it was checked."""

from __future__ import annotations

import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from whisper_npu.backends.cpu import library as module
from whisper_npu.backends.cpu.build import Build, find_build
from whisper_npu.backends.cpu.library import _libraries, load_library, open_first, open_library
from whisper_npu.backends.cpu.status import usable_build
from whisper_npu.errors import KernelError


@pytest.fixture
def build(cpu_home: Path) -> Build:
    found = find_build()
    assert found is not None
    _libraries.clear()
    return found


@pytest.mark.parametrize("size", [0, 4096, -1])
def test_a_library_that_was_cut_is_not_loaded(build: Build, size: int) -> None:
    os.truncate(build.path, size % build.path.stat().st_size)
    found = usable_build()
    assert isinstance(found, str)
    assert f"{build.path.name}: is not the file that was compiled" in found
    assert not _libraries


def test_a_library_that_is_no_file(build: Build) -> None:
    build.path.unlink()
    os.mkfifo(build.path)
    with pytest.raises(KernelError, match="is not a regular file"):
        open_library(build)


@pytest.mark.skipif(sys.platform != "linux", reason="files in memory are Linux's")
def test_what_is_loaded_is_a_copy(build: Build) -> None:
    library = open_library(build)
    maps = Path("/proc/self/maps").read_text()
    assert str(build.path) not in maps
    assert f"/memfd:{build.path.name}" in maps
    assert load_library(build.path) is library


@pytest.mark.skipif(sys.platform != "linux", reason="files in memory are Linux's")
def test_where_no_copy_can_be_loaded(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module.os, "memfd_create", refuses)
    assert open_library(build).isas
    assert str(build.path) in Path("/proc/self/maps").read_text()


def test_a_library_that_is_refused_is_not_in_the_way_of_another(build: Build) -> None:
    refused = replace(build, sha256="0" * 64)
    with pytest.warns(UserWarning, match=rf"is not the file .*; {build.path} is used instead$"):
        assert open_first([refused, build]) == (build, load_library(build.path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_first([build, refused]) == (build, load_library(build.path))
    with pytest.raises(KernelError, match="is not the file that was compiled"):
        open_first([refused, refused])
    assert open_first([]) is None
