"""Files: bytes within bounds, files replaced as a whole, and those that come with the package."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import struct
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from whisper_npu.errors import KernelError, ModelError, OutputError
from whisper_npu.files import places, whole
from whisper_npu.files.places import shipped_file
from whisper_npu.files.span import Reader, Span
from whisper_npu.files.whole import (
    file_sha256,
    open_regular,
    read_file,
    replacing,
    replacing_folder,
    writing,
)

CONTENT = bytes(range(40))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.bin"
    path.write_bytes(CONTENT)
    return path


# Spans


def test_bytes_and_files_are_read_alike(file: Path) -> None:
    with file.open("rb") as opened:
        for span in (Span.of(CONTENT, str(file), ModelError), Span.of_file(opened, ModelError)):
            part = span.part(8, 16, "a part")
            assert (part.raw(2, 3, "bytes"), part.size) == (CONTENT[10:13], 16)
            assert part.unpack(struct.Struct("<HB"), 1, "numbers") == (0x0A09, 11)
            with pytest.raises(ModelError) as raised:
                part.raw(14, 3, "a name")
            assert str(raised.value) == (
                f"{file}: byte 22 (0x16): a name of 3 bytes does not fit into the 16 bytes there "
                "are; get an intact copy"
            )
            for offset, size in ((-1, 1), (0, -1), (17, 0), (0, 1 << 70)):
                with pytest.raises(ModelError, match="does not fit"):
                    part.raw(offset, size, "it")


def test_a_reader_takes_one_thing_after_the_other(file: Path) -> None:
    reader = Reader(Span.of(CONTENT, "x", KernelError).part(4, 20, "a part"))
    assert reader.take(2, "a") == CONTENT[4:6]
    assert reader.unpack("Hb", "b") == (0x0706, 8)
    assert reader.skip(5, "c") == 9
    assert reader.left == 10
    for take in (reader.take, reader.skip):
        for size in (11, -1):
            with pytest.raises(KernelError, match=rf"^x: byte 14 \(0xe\): d of {size} bytes "):
                take(size, "d")
    assert reader.take(10, "e") == CONTENT[14:24]
    assert reader.left == 0


def test_a_file_that_is_cut_while_it_is_read(file: Path) -> None:
    with file.open("rb", buffering=0) as opened:
        span = Span.of_file(opened, ModelError)
        os.truncate(file, 10)
        with pytest.raises(ModelError, match=r"byte 8 .*: the file was cut within a name while"):
            span.raw(8, 4, "a name")


# Files as a whole


def test_a_file_up_to_a_limit(file: Path, tmp_path: Path) -> None:
    assert read_file(file, 40, KernelError) == CONTENT
    with pytest.raises(KernelError, match=r"file\.bin: has more than the 39 bytes that are read"):
        read_file(file, 39, KernelError)
    with pytest.raises(ModelError, match=r"none: no such file$"):
        read_file(tmp_path / "none", 39, ModelError)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _socket(path: Path) -> None:
    # Not by its whole name, which may be too long for one.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        socket.socket(socket.AF_UNIX).bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="needs files of Linux")
@pytest.mark.parametrize("make", [_fifo, _link_to_a_device, _socket])
def test_only_regular_files_are_read(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "model.bin"
    make(path)
    reason = r"model\.bin: cannot be read: is not a regular file$"
    with pytest.raises(ModelError, match=reason):
        open_regular(path, ModelError)
    with pytest.raises(KernelError, match=reason):
        read_file(path, 40, KernelError)
    with pytest.raises(OSError, match="is not a regular file"):
        file_sha256(path)


def test_a_file_that_a_fifo_replaces_before_it_is_opened(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens = os.open

    def replaced(path: str, flags: int) -> int:
        os.unlink(path)
        os.mkfifo(path)
        return opens(path, flags)

    monkeypatch.setattr(os, "open", replaced)
    with pytest.raises(ModelError, match="is not a regular file"):
        open_regular(file, ModelError)


def test_folders_links_and_names_that_no_file_has(file: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(file)
    with open_regular(tmp_path / "link", ModelError) as opened:
        assert opened.read() == CONTENT
    with pytest.raises(ModelError, match=r"cannot be read: Is a directory$"):
        open_regular(tmp_path, ModelError)
    with pytest.raises(ModelError, match="cannot be read: embedded null"):
        open_regular("a\0b", ModelError)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 21) + 5])
def test_the_hash_is_of_the_whole_file(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "x").write_bytes(content)
    assert file_sha256(tmp_path / "x") == hashlib.sha256(content).hexdigest()


def test_an_error_of_the_system_names_the_file(tmp_path: Path) -> None:
    full = OSError(28, "No space left on device")
    with pytest.raises(OutputError, match=r"^x: cannot be written: No space left on device$"):
        _raise_within(writing(Path("x")), full)
    with pytest.raises(OutputError, match=r"^x: cannot be written \(too large\); make room$"):
        _raise_within(writing(Path("x"), "make room"), OSError("too large"))
    with pytest.raises(KeyError):
        _raise_within(writing(Path("x")), KeyError())


def _raise_within(block: AbstractContextManager[object], error: BaseException) -> None:
    with block:
        raise error


Replacing = Callable[[Path], AbstractContextManager[Path]]


def _make_file(path: Path, text: str) -> None:
    path.write_text(text)


def _make_folder(path: Path, text: str) -> None:
    path.mkdir(exist_ok=True)
    (path / "inner").write_text(text)


def _text(path: Path) -> str:
    return (path / "inner" if path.is_dir() else path).read_text()


KINDS = pytest.mark.parametrize(
    ("replace", "make"), [(replacing, _make_file), (replacing_folder, _make_folder)]
)


@KINDS
@pytest.mark.parametrize("there", [False, True])
def test_the_new_one_takes_the_place(
    tmp_path: Path, replace: Replacing, make: Callable[[Path, str], None], there: bool
) -> None:
    path = tmp_path / "name.txt"
    if there:
        make(path, "old")
    with replace(path) as new:
        assert (new.parent, new.name[0], new.suffix) == (tmp_path, ".", ".txt")
        make(new, "new")
        assert path.exists() == there
    assert _text(path) == "new"
    assert os.listdir(tmp_path) == ["name.txt"]
    mode = stat.S_IMODE(path.stat().st_mode)
    usual = tmp_path / "usual"
    make(usual, "")
    assert mode == stat.S_IMODE(usual.stat().st_mode)


@KINDS
@pytest.mark.parametrize("step", ["block", "rename"])
@pytest.mark.parametrize("error", [OSError(28, "full"), KeyboardInterrupt()])
def test_what_fails_leaves_the_old_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    replace: Replacing,
    make: Callable[[Path, str], None],
    step: str,
    error: BaseException,
) -> None:
    path = tmp_path / "name.txt"
    make(path, "old")
    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if _text(self) == "new":
            raise error
        return rename(self, target)

    if step == "rename":
        # As where two names cannot be exchanged.
        monkeypatch.setattr(whole, "_exchange", lambda new, path: False)
        monkeypatch.setattr(Path, "rename", fails)
        monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(type(error)):
        _replace(replace(path), make, error if step == "block" else None)
    assert _text(path) == "old"
    assert os.listdir(tmp_path) == ["name.txt"]


def _replace(
    block: AbstractContextManager[Path],
    make: Callable[[Path, str], None],
    error: BaseException | None,
) -> None:
    with block as new:
        make(new, "new")
        if error is not None:
            raise error


def test_names_as_long_as_they_may_be(tmp_path: Path) -> None:
    path = tmp_path / f"{'é' * 125}.txt"
    with replacing(path) as new:
        new.write_text("new")
    assert path.read_text() == "new"


def test_a_file_does_not_replace_a_folder(tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()
    with pytest.raises(OSError, match="directory"), replacing(tmp_path / "name") as new:
        new.write_text("new")
    assert os.listdir(tmp_path) == ["name"]
    assert (tmp_path / "name").is_dir()


# Files that come with the package


def test_shipped_files_are_in_the_package_or_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = shipped_file("kernels/registry.json")
    assert found is not None
    assert found.is_file()
    package = tmp_path / "whisper_npu"
    (package / "kernels").mkdir(parents=True)
    (tmp_path / "kernels").mkdir()
    monkeypatch.setattr(places, "PLACES", (package, tmp_path))
    assert shipped_file("kernels/registry.json") is None
    (tmp_path / "kernels" / "registry.json").touch()
    assert shipped_file("kernels/registry.json") == tmp_path / "kernels" / "registry.json"
    (package / "kernels" / "registry.json").touch()
    assert shipped_file("kernels/registry.json") == package / "kernels" / "registry.json"
