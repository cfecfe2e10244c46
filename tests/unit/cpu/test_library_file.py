"""What is loaded is what was compiled, and nobody else can have changed it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from whisper_npu.backends.cpu.library_file import check_library_file
from whisper_npu.errors import KernelError
from whisper_npu.files.whole import file_sha256

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owners here")
needs_root = pytest.mark.skipif(
    hasattr(os, "geteuid") and os.geteuid() != 0, reason="only root can give files away"
)
OTHER = 12345


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "lib"
    folder.mkdir()
    folder.chmod(0o755)
    library = folder / "kernels.so"
    library.write_bytes(b"a library")
    library.chmod(0o755)
    return library


def _check(library: Path) -> None:
    check_library_file(library, file_sha256(library))


def test_a_file_as_it_was_compiled(library: Path) -> None:
    _check(library)
    right = file_sha256(library)
    library.write_bytes(b"another one")
    wrong = rf"kernels\.so: is not the file that was compiled .*{right[:16]}\.\.\.\); run whisper-n"
    with pytest.raises(KernelError, match=wrong):
        check_library_file(library, right)
    library.unlink()
    with pytest.raises(KernelError, match=r"kernels\.so: cannot be read: No such file"):
        check_library_file(library, right)


@pytest.mark.parametrize("which", ["library", "folder"])
def test_what_anybody_can_write_is_not_loaded(library: Path, which: str) -> None:
    path = library if which == "library" else library.parent
    for mode in (0o757, 0o777):
        path.chmod(mode)
        with pytest.raises(KernelError, match=rf"^{path}: can be written by anybody; run chmod go"):
            _check(library)
    path.chmod(0o755)
    _check(library)


@needs_root
@pytest.mark.parametrize("which", ["library", "folder"])
def test_what_a_group_can_write(library: Path, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = library if which == "library" else library.parent
    path.chmod(0o775)
    with monkeypatch.context() as images:
        # Root's group is that of arbitrary users of containers, and nobody else's.
        images.setattr(os, "geteuid", lambda: OTHER)
        _check(library)
    os.chown(path, -1, OTHER)
    with pytest.raises(KernelError, match=rf"^{path}: can be written by group {OTHER}; run chmod"):
        _check(library)
    # The group of a user alone, as many systems give each one.
    monkeypatch.setattr(os, "geteuid", lambda: OTHER)
    _check(library)
    path.chmod(0o755)
    os.chown(path, -1, 100)
    _check(library)


@needs_root
@pytest.mark.parametrize("which", ["library", "folder"])
def test_what_belongs_to_somebody_else_is_not_loaded(
    library: Path, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = library if which == "library" else library.parent
    os.chown(path, OTHER, -1)
    with pytest.raises(KernelError, match=rf"^{path}: belongs to user {OTHER}, not to root or to"):
        _check(library)
    # It is the user's own, or root's.
    monkeypatch.setattr(os, "geteuid", lambda: OTHER)
    _check(library)


@needs_root
def test_a_link_leads_to_a_folder_that_counts_too(library: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir(mode=0o755)
    link = other / "kernels.so"
    link.symlink_to(library)
    _check(link)
    for folder in (library.parent, other):
        os.chown(folder, OTHER, -1)
        with pytest.raises(KernelError, match=rf"^{folder}: belongs to user"):
            _check(link)
        os.chown(folder, 0, -1)


def test_where_files_have_no_owners(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library.chmod(0o777)
    monkeypatch.delattr(os, "geteuid")
    _check(library)
    with pytest.raises(KernelError, match="is not the file that was compiled"):
        check_library_file(library, "0" * 64)
